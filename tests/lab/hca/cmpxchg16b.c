/* Does cmpxchg16b leave the flags alone that it does not set?  Exit status 1: no.
 *
 * QEMU 7.2 works out EFLAGS anew after it, from what it remembers of the instruction that set them last.  Once popf has
 * set them and an add has followed, it takes the operand of the add for EFLAGS: garbage in all bits.  An interrupt then
 * saves it, and the return from that interrupt is a general protection fault or a double fault. */
#include <stdint.h>
#include <stdio.h>

/* Carry, bit 1, parity, auxiliary carry, zero, sign, interrupts, overflow, ID. */
#define EXPECTED 0x200ad7ULL

int main(void)
{
	static struct { uint64_t low, high; } __attribute__((aligned(16))) memory;
	uint64_t operand = 0x1234567800ULL, low = 0, flags;

	__asm__ volatile("pushfq\n\tpopfq\n\t"
			 "addq %[operand], %[operand]\n\t"
			 "cmpxchg16b %[memory]\n\t"
			 "pushfq\n\tpopq %[flags]"
			 : [flags] "=&r"(flags), [memory] "+m"(memory), [operand] "+r"(operand), "+a"(low)
			 : "d"(0ULL), "b"(1ULL), "c"(0ULL)
			 : "cc", "memory");
	printf("EFLAGS %#llx after cmpxchg16b\n", (unsigned long long)flags);
	return (flags & ~EXPECTED) != 0;
}
