/* start COMMAND...: runs a command, and uses the C library for it. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc > 1)
		execv(argv[1], argv + 1);
	perror("start");
	return 127;
}
