/* restrict [--old-kernel] [--no-new-code] [--files N] COMMAND...: run a command that may do less.
 *
 * --old-kernel   System calls that came after Linux 3.10 fail with ENOSYS, and O_TMPFILE (3.11) with EISDIR, as they do
 *                there. x86-64 only: the numbers of its system calls are in the order in which they came.
 * --no-new-code  No memory becomes executable that was or is writable: systemd's MemoryDenyWriteExecute.
 * --files N      It may have N files open. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __x86_64__
#error the filters are for x86-64
#endif
#define SHM_EXEC 0100000
#define TMPFILE_BIT 020000000
#define FIRST_AFTER_3_10 314 /* sched_setattr: Linux 3.14 */
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(test, value, yes, no) BPF_JUMP(BPF_JMP | BPF_K | (test), value, yes, no)
#define FAIL(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void install(struct sock_filter *filter, size_t size)
{
	struct sock_fprog program = {size / sizeof *filter, filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
		perror("restrict: seccomp");
		exit(125);
	}
}

static void as_an_old_kernel(void)
{
	struct sock_filter filter[] = {
		LOAD(nr),
		IF(BPF_JGE, FIRST_AFTER_3_10, 0, 1),
		FAIL(ENOSYS),
		IF(BPF_JEQ, SYS_open, 2, 0),
		IF(BPF_JEQ, SYS_openat, 3, 0),
		ALLOW,
		LOAD(args[1]),
		IF(BPF_JSET, TMPFILE_BIT, 2, 3),
		LOAD(args[2]),
		IF(BPF_JSET, TMPFILE_BIT, 0, 1),
		FAIL(EISDIR),
		ALLOW,
	};

	install(filter, sizeof filter);
}

static void without_new_code(void)
{
	struct sock_filter filter[] = {
		LOAD(nr),
		IF(BPF_JEQ, SYS_mmap, 4, 0),
		IF(BPF_JEQ, SYS_mprotect, 6, 0),
		IF(BPF_JEQ, SYS_pkey_mprotect, 5, 0),
		IF(BPF_JEQ, SYS_shmat, 6, 0),
		ALLOW,
		LOAD(args[2]), /* mmap */
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, PROT_WRITE | PROT_EXEC),
		IF(BPF_JEQ, PROT_WRITE | PROT_EXEC, 4, 5),
		LOAD(args[2]), /* mprotect */
		IF(BPF_JSET, PROT_EXEC, 2, 3),
		LOAD(args[2]), /* shmat */
		IF(BPF_JSET, SHM_EXEC, 0, 1),
		FAIL(EPERM),
		ALLOW,
	};

	install(filter, sizeof filter);
}

int main(int argc, char **argv)
{
	int old = 0, no_code = 0;

	for (argv++; *argv && !strncmp(*argv, "--", 2); argv++) {
		if (!strcmp(*argv, "--old-kernel")) {
			old = 1;
		} else if (!strcmp(*argv, "--no-new-code")) {
			no_code = 1;
		} else if (!strcmp(*argv, "--files") && argv[1]) {
			rlim_t count = strtoul(*++argv, NULL, 10);
			struct rlimit limit = {count, count};

			if (setrlimit(RLIMIT_NOFILE, &limit)) {
				perror("restrict: RLIMIT_NOFILE");
				return 125;
			}
		} else {
			break;
		}
	}
	if (!*argv || argc < 2) {
		fprintf(stderr, "restrict: name a command\n");
		return 125;
	}
	if (no_code)
		without_new_code();
	if (old)
		as_an_old_kernel();
	execv(*argv, argv);
	perror(*argv);
	return 127;
}
