// The init of a container that asks for one: process 1 there, which runs the
// command as its child, passes signals on to it, reaps what is orphaned to it,
// and ends as the command does. It needs no library, and the files beside this
// one are what generate.sh makes of it.
//
//	init COMMAND [ARGUMENT...]

typedef unsigned long word;

#if defined(__x86_64__)
enum { EXECVE = 59, CLONE = 56, WAIT4 = 61, KILL = 62, EXIT = 231, WRITE = 1, IOCTL = 16, PRCTL = 157,
       SETPGID = 109, GETPID = 39, SIGPROCMASK = 14, SIGTIMEDWAIT = 128 };

static long call(long n, long a, long b, long c, long d, long e) {
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
#elif defined(__aarch64__)
enum { EXECVE = 221, CLONE = 220, WAIT4 = 260, KILL = 129, EXIT = 94, WRITE = 64, IOCTL = 29, PRCTL = 167,
       SETPGID = 154, GETPID = 172, SIGPROCMASK = 135, SIGTIMEDWAIT = 137 };

static long call(long n, long a, long b, long c, long d, long e) {
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl begin\n");
#endif

enum { NO_ENTRY = 2, TOO_LONG = 7, NO_CHILD = 10, NO_ACCESS = 13, NOT_A_DIRECTORY = 20 }; // errno
enum { SIG_CHLD = 17, SIG_TTIN = 21, SIG_TTOU = 22 };
enum { SET_MASK = 2, NO_HANG = 1, SUBREAPER = 36, SET_FOREGROUND = 0x5410 };
enum { MAX_PATH = 4096 };

static word length(const char *s) {
	word n = 0;
	while (s[n])
		n++;
	return n;
}

static void say(const char *s) { call(WRITE, 2, (long)s, length(s), 0, 0); }

static void leave(long code) {
	for (;;)
		call(EXIT, code, 0, 0, 0, 0);
}

// execute runs a command like execvp(3), and returns the error.
static long execute(char **argv, char **envp) {
	const char *name = argv[0], *path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	for (const char *p = name; *p; p++)
		if (*p == '/')
			return call(EXECVE, (long)name, (long)argv, (long)envp, 0, 0);
	if (!*name)
		return -NO_ENTRY;
	for (char **e = envp; *e; e++)
		if ((*e)[0] == 'P' && (*e)[1] == 'A' && (*e)[2] == 'T' && (*e)[3] == 'H' && (*e)[4] == '=')
			path = *e + 5;
	static char file[MAX_PATH];
	long result = -NO_ENTRY;
	word size = length(name);
	for (;; path++) {
		word n = 0;
		while (*path && *path != ':') {
			if (n < MAX_PATH)
				file[n++] = *path;
			path++;
		}
		if (n + size + 2 > MAX_PATH) {
			result = -TOO_LONG;
		} else {
			if (n)
				file[n++] = '/'; // an empty one is the working directory
			for (word i = 0; i <= size; i++)
				file[n + i] = name[i];
			long r = call(EXECVE, (long)file, (long)argv, (long)envp, 0, 0);
			if (r == -NO_ACCESS)
				result = r;
			else if (r != -NO_ENTRY && r != -NOT_A_DIRECTORY)
				return r;
		}
		if (!*path)
			return result;
	}
}

static void child(char **argv, char **envp, word *mask) {
	// What the terminal sends is for the command, and not twice. Signals are
	// blocked, so that it may say so from the background.
	call(SETPGID, 0, 0, 0, 0, 0);
	int self = (int)call(GETPID, 0, 0, 0, 0, 0);
	call(IOCTL, 0, SET_FOREGROUND, (long)&self, 0, 0);
	call(SIGPROCMASK, SET_MASK, (long)mask, 0, sizeof *mask, 0);
	long r = execute(argv, envp);
	say("init: cannot execute ");
	say(argv[0]);
	say(r == -NO_ENTRY || r == -NOT_A_DIRECTORY ? ": not found\n" : r == -NO_ACCESS ? ": permission denied\n" : ": it is no program\n");
	leave(r == -NO_ENTRY || r == -NOT_A_DIRECTORY ? 127 : 126);
}

__attribute__((used)) void begin(word *stack) {
	char **argv = (char **)(stack + 1), **envp = argv + stack[0] + 1;
	word all = ~0UL, old = 0;
	if (stack[0] < 2) {
		say("init: no command\n");
		leave(127);
	}
	call(SIGPROCMASK, SET_MASK, (long)&all, (long)&old, sizeof all, 0);
	call(PRCTL, SUBREAPER, 1, 0, 0, 0);
	long command = call(CLONE, SIG_CHLD, 0, 0, 0, 0);
	if (command < 0) {
		say("init: cannot fork\n");
		leave(126);
	}
	if (command == 0)
		child(argv + 1, envp, &old);
	for (;;) {
		long signal = call(SIGTIMEDWAIT, (long)&all, 0, 0, sizeof all, 0);
		if (signal <= 0 || signal == SIG_TTIN || signal == SIG_TTOU)
			continue;
		if (signal != SIG_CHLD) {
			call(KILL, command, signal, 0, 0, 0);
			continue;
		}
		int status = 0, end = -1;
		long pid;
		while ((pid = call(WAIT4, -1, (long)&status, NO_HANG, 0, 0)) > 0)
			if (pid == command)
				end = status & 0x7f ? 128 + (status & 0x7f) : (status >> 8) & 0xff;
		if (pid == -NO_CHILD && end < 0)
			end = 255; // somebody made the kernel reap it
		if (end >= 0)
			leave(end);
	}
}
