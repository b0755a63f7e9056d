/* A filter for Envoy, by its ABI (proxy-wasm 0.2.1) and with no SDK: each response gets the header `greeting`, whose text is what
   the filter is configured with. */
#include <stddef.h>
#include <stdlib.h>

#ifndef GREETING_VERSION
#define GREETING_VERSION "1"
#endif

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))

enum { OK = 0, CONTINUE = 0, RESPONSE_HEADERS = 2, PLUGIN_CONFIGURATION = 7 };

IMPORT(proxy_get_buffer_bytes)
int proxy_get_buffer_bytes(int buffer, size_t start, size_t length, char **bytes, size_t *size);
IMPORT(proxy_add_header_map_value)
int proxy_add_header_map_value(int map, const char *name, size_t name_size, const char *value, size_t value_size);

static char *greeting = "hello";
static size_t greeting_size = 5;

EXPORT(proxy_abi_version_0_2_1) void proxy_abi_version(void) {}

/* Envoy puts what it hands over where this says. */
EXPORT(proxy_on_memory_allocate) void *proxy_on_memory_allocate(size_t size) { return malloc(size); }

EXPORT(proxy_on_configure) int proxy_on_configure(int context, size_t size) {
  (void)context;
  char *bytes;
  size_t got;
  if (size != 0 && proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, size, &bytes, &got) == OK) {
    greeting = bytes;
    greeting_size = got;
  }
  /* One that returns 0 is refused, and Envoy goes on with what it has. */
  return 1;
}

static void add(const char *name, size_t name_size, const char *value, size_t value_size) {
  proxy_add_header_map_value(RESPONSE_HEADERS, name, name_size, value, value_size);
}

EXPORT(proxy_on_response_headers) int proxy_on_response_headers(int context, size_t count, int is_end) {
  (void)context, (void)count, (void)is_end;
  add("greeting", sizeof "greeting" - 1, greeting, greeting_size);
  add("greeting-version", sizeof "greeting-version" - 1, GREETING_VERSION, sizeof GREETING_VERSION - 1);
  return CONTINUE;
}

int main(void) { return 0; }
