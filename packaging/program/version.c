/* Answers VERSION before anything else: before the C library sets itself up, which takes longer than the answer.
 *
 * The program starts at `begin` (ld --entry). Where CNI_COMMAND is not VERSION, or the answer cannot be written, it goes
 * on at the C library's own start, with registers and stack as the kernel made them. Until there no function of the C
 * library may be called, and none may be needed: packaging/program.py keeps the compiler from making calls of its own.
 *
 * version.h is made by packaging/program.py:
 *   static const char version_answer[];           what VERSION answers, asked for when the program was built
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include "version.h"

void answer_version(void **stack);

#if defined(__x86_64__)
__asm__(".text\n.globl begin\n.type begin, @function\nbegin:\n"
	"	xorl %ebp, %ebp\n"
	"	movq %rsp, %rdi\n"
	"	pushq %rdx\n"
	"	pushq %rdx\n" /* keeps the stack's alignment */
	"	call answer_version\n"
	"	popq %rdx\n"
	"	popq %rdx\n"
	"	jmp _start\n");

static long system_call(long number, long a, const void *b, size_t c)
{
	long answer;

	__asm__ volatile("syscall" : "=a"(answer) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return answer;
}
#elif defined(__aarch64__)
__asm__(".text\n.globl begin\n.type begin, %function\nbegin:\n"
	"	str x0, [sp, #-16]!\n"
	"	mov x29, #0\n"
	"	add x0, sp, #16\n"
	"	bl answer_version\n"
	"	ldr x0, [sp], #16\n"
	"	mov x30, #0\n"
	"	b _start\n");

static long system_call(long number, long a, const void *b, size_t c)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register const void *x1 __asm__("x1") = b;
	register size_t x2 __asm__("x2") = c;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}
#endif

/* stack: the number of arguments, the arguments, NULL, the variables, NULL */
void answer_version(void **stack)
{
	static const char wanted[] = "CNI_COMMAND=VERSION";
	const char **variable = (const char **)(stack + 1 + (size_t)*stack + 1);
	size_t done = 0, i;

	for (;; variable++) {
		if (!*variable)
			return;
		for (i = 0; wanted[i] && (*variable)[i] == wanted[i]; i++)
			;
		if (!wanted[i] && !(*variable)[i])
			break;
	}
	while (done < sizeof version_answer - 1) {
		long n = system_call(SYS_write, 1, version_answer + done, sizeof version_answer - 1 - done);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return; /* Python will say why. */
		done += (size_t)n;
	}
	system_call(SYS_exit_group, 0, NULL, 0);
}
