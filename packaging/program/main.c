/* The program: the interpreter, its extension modules, pyverbs, libibverbs and the providers, linked statically.
 *
 * Nothing is unpacked and nothing is linked when it runs. The modules of the CNI commands are code objects in the data
 * of the program; all other modules are in the zip archive at the file's end and are imported from there.
 *
 * tables.h is made by packaging/program.py:
 *   static const struct _frozen frozen[];         modules, ended by one without a name
 *   static struct _inittab extensions[];          extension modules that the interpreter's own table does not have
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "tables.h"

/* The link in /proc leads to the file that was started, even if another has been renamed over it. */
#define SELF "/proc/self/exe"

/* Where the program is, and where its archive is read. Without /proc both are the name it was called by, made absolute
 * as far as that can be done. */
static char own[8192];
static const char *archive = SELF;

static void find_own_path(void)
{
	const char *called = (const char *)getauxval(AT_EXECFN);
	ssize_t n = readlink(SELF, own, sizeof own - 1);
	size_t length = 0;

	if (n > 0)
		return;
	archive = own;
	if (!called)
		called = "ib-sriov";
	if (*called != '/' && getcwd(own, sizeof own / 2))
		length = strlen(own);
	snprintf(own + length, sizeof own - length, "%s%s", length ? "/" : "", called);
}

/* Python takes the seed of its hashes from the kernel: getrandom(2), since Linux 3.17, or /dev/urandom. In a root that
 * has neither it would not start. Then the kernel's random bytes for this process serve. */
static void find_hash_seed(PyConfig *config)
{
	const void *bytes = (const void *)getauxval(AT_RANDOM);
	char byte;
	unsigned int seed;

	if (!bytes || syscall(SYS_getrandom, &byte, sizeof byte, 1 /* GRND_NONBLOCK */) >= 0 || errno != ENOSYS ||
	    access("/dev/urandom", R_OK) == 0)
		return;
	memcpy(&seed, bytes, sizeof seed);
	config->use_hash_seed = 1;
	config->hash_seed = seed;
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

/* What importing from a zip archive needs. For a CNI command it is loaded when something is first imported from there
 * (_ib_sriov_boot.py); the interpreter's start calls this function (ld --wrap). */
static int zipimport_waits;
PyStatus __real__PyImportZip_Init(PyThreadState *thread);
PyStatus __wrap__PyImportZip_Init(PyThreadState *thread);
PyStatus __wrap__PyImportZip_Init(PyThreadState *thread)
{
	return zipimport_waits ? PyStatus_Ok() : __real__PyImportZip_Init(thread);
}

/* In its place: nothing. It interns the names in the code of the standard library's frozen modules, which takes a tenth of
 * the interpreter's start; equal names that are two objects are found to be equal all the same (static_code.py). */
int __wrap__Py_Deepfreeze_Init(void);
int __wrap__Py_Deepfreeze_Init(void)
{
	return 0;
}

static PyObject *py_install_zipimport(PyObject *module, PyObject *args)
{
	(void)module, (void)args;
	if (PyStatus_Exception(__real__PyImportZip_Init(PyThreadState_Get())))
		return PyErr_Format(PyExc_SystemError, "zipimport cannot be installed");
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{"install_zipimport", py_install_zipimport, METH_NOARGS, "have the program's archive searched for modules"},
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
	wchar_t *wide;

	/* A file opened later must not get the number of a standard stream that is closed: what is meant for the stream
	 * would be written into it. Reading and writing still fail, as they do with a closed stream. */
	for (fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", (fd ? O_RDONLY : O_WRONLY) | O_NOCTTY) < 0)
			break;

	PyPreConfig_InitIsolatedConfig(&pre);
	pre.utf8_mode = 1;
	pre.configure_locale = 0;
	stop_if(Py_PreInitialize(&pre));
	PyImport_AppendInittab("_ib_sriov", init);
	PyImport_ExtendInittab(extensions);
	PyImport_FrozenModules = frozen;

	PyConfig_InitIsolatedConfig(&config);
	config.site_import = 0;
	config.pathconfig_warnings = 0;
	config.install_signal_handlers = 1;
	config.write_bytecode = 0;
	config.parse_argv = 0;
	config.module_search_paths_set = 1;
	config._init_main = !command; /* a CNI command's start has a step in between */
	stop_if(PyConfig_SetBytesArgv(&config, argc, argv));
	find_own_path();
	stop_if(PyConfig_SetBytesString(&config, &config.executable, own));
	find_hash_seed(&config);
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
	wide = Py_DecodeLocale(archive, NULL);
	stop_if(PyWideStringList_Append(&config.module_search_paths, wide ? wide : L"" SELF));
	PyMem_RawFree(wide);
	zipimport_waits = config._init_main == 0;
	stop_if(Py_InitializeFromConfig(&config));
	if (zipimport_waits) {
		PyGC_Disable(); /* one call is too short to leave anything worth collecting */
		if (PyImport_ImportFrozenModule("_ib_sriov_boot") <= 0) {
			PyErr_Print();
			return 1;
		}
		stop_if(_Py_InitializeMain());
	}
	module = PyImport_ImportModule("_ib_sriov_start");
	if (!module) {
		PyErr_Print(); /* ends the process where it is a SystemExit */
		Py_FinalizeEx(); /* writes what is in the buffer of standard output */
		return 1;
	}
	return Py_FinalizeEx() < 0;
}
