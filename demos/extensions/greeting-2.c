/* The next version of the filter. */
#define GREETING_VERSION "2"
#include "greeting.c"
