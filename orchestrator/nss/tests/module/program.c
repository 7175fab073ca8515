// Looks up users and groups through the NSS module and prints what came of it.
//
//   program direct DATABASE name|id KEY [BYTES]   the module's own status and errno
//   program direct DATABASE all                   an enumeration
//   program direct initgroups name USER
//   program lookup LINE name|id KEY               through the C library, LINE as in nsswitch.conf
//   program groups LINE USER                      getgrouplist, as id(1) asks
//   program repeat TIMES USER                     open files before and after
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *module;

static void *symbol(const char *name)
{
    if (module == NULL)
        module = dlopen("libnss_quorate.so.2", RTLD_NOW);
    void *found = module == NULL ? NULL : dlsym(module, name);
    if (found == NULL) {
        fprintf(stderr, "%s: %s\n", name, dlerror());
        exit(3);
    }
    return found;
}

static const char *name_of(enum nss_status status)
{
    switch (status) {
    case NSS_STATUS_TRYAGAIN: return "TRYAGAIN";
    case NSS_STATUS_UNAVAIL: return "UNAVAIL";
    case NSS_STATUS_NOTFOUND: return "NOTFOUND";
    case NSS_STATUS_SUCCESS: return "SUCCESS";
    default: return "unknown";
    }
}

static void print_passwd(const struct passwd *p)
{
    printf(" %s:%s:%u:%u:%s:%s:%s", p->pw_name, p->pw_passwd, p->pw_uid, p->pw_gid, p->pw_gecos, p->pw_dir, p->pw_shell);
}

static void print_group(const struct group *g)
{
    printf(" %s:%s:%u:", g->gr_name, g->gr_passwd, g->gr_gid);
    char *member;
    memcpy(&member, g->gr_mem, sizeof member);
    if (member != NULL)
        printf("members");
}

static char buffer[4096];

static void direct_passwd(const char *by, const char *key, size_t bytes)
{
    struct passwd result;
    enum nss_status status;
    errno = 0;
    if (strcmp(by, "all") == 0) {
        enum nss_status (*set)(void) = symbol("_nss_quorate_setpwent");
        enum nss_status (*next)(struct passwd *, char *, size_t, int *) = symbol("_nss_quorate_getpwent_r");
        enum nss_status (*end)(void) = symbol("_nss_quorate_endpwent");
        status = set();
        printf("%s errno=%d", name_of(status), errno);
        while ((status = next(&result, buffer, bytes, &errno)) == NSS_STATUS_SUCCESS)
            print_passwd(&result);
        printf(" %s", name_of(status));
        end();
        return;
    }
    if (strcmp(by, "name") == 0) {
        enum nss_status (*get)(const char *, struct passwd *, char *, size_t, int *) = symbol("_nss_quorate_getpwnam_r");
        status = get(key, &result, buffer, bytes, &errno);
    } else {
        enum nss_status (*get)(uid_t, struct passwd *, char *, size_t, int *) = symbol("_nss_quorate_getpwuid_r");
        status = get((uid_t)strtoul(key, NULL, 10), &result, buffer, bytes, &errno);
    }
    printf("%s errno=%d", name_of(status), errno);
    if (status == NSS_STATUS_SUCCESS)
        print_passwd(&result);
}

static void direct_group(const char *by, const char *key, size_t bytes)
{
    struct group result;
    enum nss_status status;
    errno = 0;
    if (strcmp(by, "all") == 0) {
        enum nss_status (*set)(void) = symbol("_nss_quorate_setgrent");
        enum nss_status (*next)(struct group *, char *, size_t, int *) = symbol("_nss_quorate_getgrent_r");
        enum nss_status (*end)(void) = symbol("_nss_quorate_endgrent");
        status = set();
        printf("%s errno=%d", name_of(status), errno);
        while ((status = next(&result, buffer, bytes, &errno)) == NSS_STATUS_SUCCESS)
            print_group(&result);
        printf(" %s", name_of(status));
        end();
        return;
    }
    if (strcmp(by, "name") == 0) {
        enum nss_status (*get)(const char *, struct group *, char *, size_t, int *) = symbol("_nss_quorate_getgrnam_r");
        status = get(key, &result, buffer, bytes, &errno);
    } else {
        enum nss_status (*get)(gid_t, struct group *, char *, size_t, int *) = symbol("_nss_quorate_getgrgid_r");
        status = get((gid_t)strtoul(key, NULL, 10), &result, buffer, bytes, &errno);
    }
    printf("%s errno=%d", name_of(status), errno);
    if (status == NSS_STATUS_SUCCESS)
        print_group(&result);
}

static void direct_initgroups(const char *user)
{
    enum nss_status (*get)(const char *, gid_t, long *, long *, gid_t **, long, int *) = symbol("_nss_quorate_initgroups_dyn");
    long start = 1, size = 16;
    gid_t *groups = calloc((size_t)size, sizeof *groups);
    enum nss_status status = get(user, 1000, &start, &size, &groups, -1, &errno);
    printf("%s groups=%ld", name_of(status), start);
    free(groups);
}

static void configure(const char *line)
{
    __nss_configure_lookup("passwd", line);
    __nss_configure_lookup("group", line);
    __nss_configure_lookup("initgroups", line);
}

static void lookup(const char *by, const char *key)
{
    struct passwd storage, *found = NULL;
    int error = strcmp(by, "name") == 0
        ? getpwnam_r(key, &storage, buffer, sizeof buffer, &found)
        : getpwuid_r((uid_t)strtoul(key, NULL, 10), &storage, buffer, sizeof buffer, &found);
    printf("%s error=%d", found == NULL ? "none" : "found", error);
    if (found != NULL)
        print_passwd(found);
}

static void groups_of(const char *user)
{
    struct passwd *found = getpwnam(user);
    if (found == NULL) {
        printf("none");
        return;
    }
    gid_t groups[16];
    int count = 16;
    getgrouplist(user, found->pw_gid, groups, &count);
    printf("uid=%u groups=", found->pw_uid);
    for (int i = 0; i < count; i++) {
        struct group *group = getgrgid(groups[i]);
        printf("%u(%s)", groups[i], group == NULL ? "?" : group->gr_name);
    }
}

static int open_files(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory != NULL && readdir(directory) != NULL)
        count++;
    if (directory != NULL)
        closedir(directory);
    return count;
}

static void repeat(int times, const char *user)
{
    struct passwd result;
    enum nss_status (*get)(const char *, struct passwd *, char *, size_t, int *) = symbol("_nss_quorate_getpwnam_r");
    int before = open_files(), succeeded = 0;
    for (int i = 0; i < times; i++)
        succeeded += get(user, &result, buffer, sizeof buffer, &errno) == NSS_STATUS_SUCCESS;
    printf("succeeded=%d leaked=%d", succeeded, open_files() - before);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[1] : "";
    if (strcmp(mode, "direct") == 0 && argc > 3) {
        size_t bytes = argc > 5 ? strtoul(argv[5], NULL, 10) : sizeof buffer;
        if (strcmp(argv[2], "passwd") == 0)
            direct_passwd(argv[3], argv[4], bytes);
        else if (strcmp(argv[2], "group") == 0)
            direct_group(argv[3], argv[4], bytes);
        else
            direct_initgroups(argv[4]);
    } else if (strcmp(mode, "lookup") == 0 && argc > 4) {
        configure(argv[2]);
        lookup(argv[3], argv[4]);
    } else if (strcmp(mode, "groups") == 0 && argc > 3) {
        configure(argv[2]);
        groups_of(argv[3]);
    } else if (strcmp(mode, "repeat") == 0 && argc > 3) {
        repeat(atoi(argv[2]), argv[3]);
    } else {
        fprintf(stderr, "usage: see the top of program.c\n");
        return 2;
    }
    printf("\n");
    return 0;
}
