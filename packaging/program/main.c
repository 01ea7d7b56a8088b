/* The packed program: an interpreter whose own code and whose modules for the CNI commands are in the program itself.
 *
 * Nothing is ever unpacked. Modules in `frozen` are read in place from the mapped file; all other modules of the
 * command line are in the zip archive at the file's end and are imported from there; shared objects (pyverbs,
 * libibverbs and the providers) are in the program too and are given to the dynamic linker as a file without
 * a name (the one file), or are files in the folder TREE next to it (the one-folder build).
 *
 * tables.h is made by packaging/onefile.py:
 *   #define TREE                                  the folder's name; "" for the one file
 *   static const struct _frozen frozen[];         modules, ended by one without a name
 *   static const char version_answer[];           what VERSION answers
 *   static const struct shared { const char *name; const unsigned char *from, *to; } shared[];
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <unistd.h>
#include "tables.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U /* Linux 6.3 */
#endif
/* glibc 2.35 has a new version of hypot; the old one works as well, so glibc 2.34 is enough. */
#if defined(__x86_64__)
__asm__(".symver old_hypot, hypot@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver old_hypot, hypot@GLIBC_2.17");
#else
#define old_hypot __real_hypot
#endif
extern double old_hypot(double, double);
double __wrap_hypot(double x, double y);
double __wrap_hypot(double x, double y)
{
	return old_hypot(x, y);
}

/* Likewise for the random numbers of expat's hash tables: glibc has arc4random_buf since 2.36. */
void __wrap_arc4random_buf(void *buffer, size_t size);
void __wrap_arc4random_buf(void *buffer, size_t size)
{
	if (getrandom(buffer, size, 0) != (ssize_t)size)
		abort();
}

/* The link in /proc leads to the file that was started, even if another has been renamed over it. */
#define SELF "/proc/self/exe"

/* Where to make a file without a name if memfd is not allowed (vm.memfd_noexec=2), in this order. */
static const char *const folders[] = {"/dev/shm", "/run", "/var/lib/cni", "/opt/cni/bin", "/var/tmp", "/tmp", NULL};

/* The linker identifies an object by its path, and descriptors are reused: each path has one slash more. */
static int slashes;

static int write_all(int fd, const unsigned char *from, const unsigned char *to)
{
	while (from < to) {
		ssize_t n = write(fd, from, (size_t)(to - from));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		from += n;
	}
	return 0;
}

/* Write the object to the open file `fd`, link it and take over the file. Returns the path it is known by. */
static void *link_from(int fd, const struct shared *object, char *path, size_t size)
{
	void *handle = NULL;

	if (fd < 0)
		return NULL;
	snprintf(path, size, "/proc/self/fd%.*s/%d", ++slashes % 100,
		 "////////////////////////////////////////////////////////////////////////////////////////////////////", fd);
	if (write_all(fd, object->from, object->to) == 0)
		handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	close(fd);
	return handle;
}

/* Where the program is; the name it was called by if there is no /proc. */
static char own[4096];

static void find_own_path(void)
{
	ssize_t n = readlink(SELF, own, sizeof own - 1);
	const char *called = (const char *)getauxval(AT_EXECFN);

	if (n <= 0)
		snprintf(own, sizeof own, "%s", called ? called : "ib-sriov");
}

/* Link a file of the folder next to the program. */
static PyObject *link_file(const char *name)
{
	const char *slash = strrchr(own, '/');
	char path[sizeof own + 256];

	snprintf(path, sizeof path, "%.*s%s/%s", slash ? (int)(slash - own) + 1 : 0, own, TREE, name);
	if (!dlopen(path, RTLD_NOW | RTLD_LOCAL))
		return PyErr_Format(PyExc_ImportError, "%s", dlerror());
	return PyUnicode_FromString(path);
}

static PyObject *load(PyObject *module, PyObject *argument)
{
	const char *name = PyUnicode_AsUTF8(argument);
	const struct shared *object = shared;
	const char *const *folder;
	char path[192], *reason;
	void *handle;
	int fd;

	(void)module;
	if (!name)
		return NULL;
	while (object->name && strcmp(object->name, name) != 0)
		object++;
	if (!object->name)
		return PyErr_Format(PyExc_ImportError, "%s is not in this program", name);
	if (!object->from)
		return link_file(name);
	fd = memfd_create(name, MFD_CLOEXEC | MFD_EXEC);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, MFD_CLOEXEC);
	handle = link_from(fd, object, path, sizeof path);
	for (folder = folders; !handle && *folder; folder++)
		handle = link_from(open(*folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0700), object, path, sizeof path);
	if (!handle) {
		reason = dlerror();
		return PyErr_Format(PyExc_ImportError, "%s: %s", name,
				    reason ? reason : "no place for a file that may be executed");
	}
	return PyUnicode_FromString(path);
}

static PyObject *answer(int status)
{
	if (status < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	Py_RETURN_NONE;
}

static PyObject *py_setns(PyObject *module, PyObject *args)
{
	int fd, kind = 0;

	(void)module;
	return PyArg_ParseTuple(args, "i|i", &fd, &kind) ? answer(setns(fd, kind)) : NULL;
}

static PyObject *py_unshare(PyObject *module, PyObject *args)
{
	int flags;

	(void)module;
	return PyArg_ParseTuple(args, "i", &flags) ? answer(unshare(flags)) : NULL;
}

/* A bytes object's text; NULL for anything else, such as None. */
static const char *text(PyObject *object)
{
	return PyBytes_Check(object) ? PyBytes_AS_STRING(object) : NULL;
}

static PyObject *py_mount(PyObject *module, PyObject *args)
{
	PyObject *source, *target, *kind, *data;
	unsigned long flags;

	(void)module;
	if (!PyArg_ParseTuple(args, "OOOkO", &source, &target, &kind, &flags, &data))
		return NULL;
	return answer(mount(text(source), text(target), text(kind), flags, text(data)));
}

static PyObject *py_prctl(PyObject *module, PyObject *args)
{
	int option;
	unsigned long a, b, c, d;

	(void)module;
	if (!PyArg_ParseTuple(args, "ikkkk", &option, &a, &b, &c, &d))
		return NULL;
	return answer(prctl(option, a, b, c, d));
}

static PyMethodDef methods[] = {
	{"load", load, METH_O, "Link a shared object of this program; the path the linker knows it by. ImportError."},
	{"setns", py_setns, METH_VARARGS, "setns(2)"},
	{"unshare", py_unshare, METH_VARARGS, "unshare(2)"},
	{"mount", py_mount, METH_VARARGS, "mount(2)"},
	{"prctl", py_prctl, METH_VARARGS, "prctl(2)"},
	{NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_ib_sriov", NULL, 0, methods, NULL, NULL, NULL, NULL};

static PyObject *init(void)
{
	return PyModuleDef_Init(&definition);
}

static void stop_if(PyStatus status)
{
	if (PyStatus_Exception(status))
		Py_ExitStatusException(status);
}

int main(int argc, char **argv)
{
	const char *command = getenv("CNI_COMMAND");
	int fd;
	PyPreConfig pre;
	PyConfig config;
	PyObject *module;

	/* A file opened later must not get the number of a standard stream that is closed: what is meant for the stream
	 * would be written into it. Reading and writing still fail, as they do with a closed stream. */
	for (fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", (fd ? O_RDONLY : O_WRONLY) | O_NOCTTY) < 0)
			break;

	/* The answer is the same each time: the build asked for it. If it cannot be written, Python says why. */
	if (command && strcmp(command, "VERSION") == 0 &&
	    write_all(1, (const unsigned char *)version_answer,
		      (const unsigned char *)version_answer + sizeof version_answer - 1) == 0)
		return 0;

	PyPreConfig_InitIsolatedConfig(&pre);
	pre.utf8_mode = 1;
	pre.configure_locale = 0;
	stop_if(Py_PreInitialize(&pre));
	PyImport_AppendInittab("_ib_sriov", init);
	PyImport_FrozenModules = frozen;

	PyConfig_InitIsolatedConfig(&config);
	config.site_import = 0;
	config.pathconfig_warnings = 0;
	config.install_signal_handlers = 1;
	config.write_bytecode = 0;
	config.parse_argv = 0;
	config.module_search_paths_set = 1;
	stop_if(PyConfig_SetBytesArgv(&config, argc, argv));
	find_own_path();
	stop_if(PyConfig_SetBytesString(&config, &config.executable, own));
#define SET(field, value) stop_if(PyConfig_SetString(&config, &config.field, L"" value))
	SET(program_name, "ib-sriov");
	SET(base_executable, SELF);
	SET(prefix, "/");
	SET(base_prefix, "/");
	SET(exec_prefix, "/");
	SET(base_exec_prefix, "/");
	SET(platlibdir, "lib");
	SET(home, "/");
	SET(filesystem_encoding, "utf-8");
	SET(filesystem_errors, "surrogateescape");
	SET(stdio_encoding, "utf-8");
	SET(stdio_errors, "surrogateescape");
	stop_if(PyWideStringList_Append(&config.module_search_paths, L"" SELF));
	stop_if(Py_InitializeFromConfig(&config));
	module = PyImport_ImportModule("_ib_sriov_start");
	if (!module) {
		PyErr_Print(); /* ends the process where it is a SystemExit */
		return 1;
	}
	return Py_FinalizeEx() < 0;
}
