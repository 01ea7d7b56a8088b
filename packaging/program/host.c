/* What the C library and OpenSSL would read of the host, or load from it, and must not: each of these functions stands
 * in the place of theirs (ld --wrap, packaging/program.py).
 *
 * A statically linked program that loads a library of the host's C library, of another version, is one that crashes. So
 * names are looked up in /etc/hosts, /etc/passwd ... and by DNS alone, whatever /etc/nsswitch.conf says, and no daemon
 * (nscd) is asked. OpenSSL does not read the host's openssl.cnf, which may name modules to load.
 * Sources: glibc nss/nss_database.c, nss/nss_action_parse.c, nscd/nscd_helper.c, dlfcn/; OpenSSL crypto/conf/conf_mod.c.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

/* The C library's own, not in a header: the ways to look something up, made of a line as in nsswitch.conf. */
void *__nss_action_parse(const char *line);

bool __wrap___nss_database_get(int database, void **actions);
bool __wrap___nss_database_get(int database, void **actions)
{
	static void *parsed;

	(void)database; /* "dns" has nothing but hosts and networks; for all others it is passed over */
	if (!parsed)
		parsed = __nss_action_parse("files dns");
	*actions = parsed;
	return parsed != NULL;
}

void *__wrap___nscd_get_map_ref(int type, const char *name, void *mapping, int *cycle);
void *__wrap___nscd_get_map_ref(int type, const char *name, void *mapping, int *cycle)
{
	(void)type, (void)name, (void)mapping, (void)cycle;
	return (void *)-1L; /* NO_MAPPING */
}

int __wrap___nscd_open_socket(const char *key, size_t length, int type, void *response, size_t size);
int __wrap___nscd_open_socket(const char *key, size_t length, int type, void *response, size_t size)
{
	(void)key, (void)length, (void)type, (void)response, (void)size;
	return -1;
}

void *__wrap___libc_dlopen_mode(const char *name, int mode);
void *__wrap___libc_dlopen_mode(const char *name, int mode)
{
	(void)name, (void)mode;
	return NULL;
}

void *__wrap_dlopen(const char *name, int mode);
void *__wrap_dlopen(const char *name, int mode)
{
	(void)name, (void)mode;
	return NULL;
}

char *__wrap_dlerror(void);
char *__wrap_dlerror(void)
{
	return "this program is linked statically and loads no shared object";
}

int __wrap_CONF_modules_load_file_ex(void *context, const char *file, const char *name, unsigned long flags);
int __wrap_CONF_modules_load_file_ex(void *context, const char *file, const char *name, unsigned long flags)
{
	(void)context, (void)file, (void)name, (void)flags;
	return 1;
}
