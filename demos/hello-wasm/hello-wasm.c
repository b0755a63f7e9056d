/* Says where it runs, what it was given, and that it is still there. */
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
    struct utsname host;
    if (uname(&host) != 0) {
        perror("uname");
        return 1;
    }
    printf("Hello from %s on %s!\n", host.sysname, host.machine);

    puts("Arguments:");
    for (int i = 0; i < argc; i++)
        printf("  %s\n", argv[i]);

    puts("Environment:");
    for (char **entry = environ; *entry; entry++)
        printf("  %s\n", *entry);

    for (unsigned long n = 1;; n++) {
        printf("Waiting 10 seconds (%lu)...\n", n);
        sleep(10);
    }
}
