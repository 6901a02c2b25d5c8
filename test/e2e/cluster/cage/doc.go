// Package cage runs a program of tests in namespaces of its own, so that a whole
// cluster fits into a machine beside other clusters and leaves nothing there:
//
//	program of tests ──pipe──► keeper ──► init (pid 1 of the cage)
//	      │                                 ▲ adopts and reaps what is orphaned inside
//	      └──────► the same program, inside ┘
//
// A cage has namespaces of its own for processes, mounts, network, host name and
// System V IPC; of the machine's directories it has its own /run, /var/lib and
// /var/log, and its own /proc and /sys. Cgroups are the machine's, and all that
// the inside makes must be below Cage.Cgroup. In its network there is no more than
// loopback and a bridge, LAN, for other network namespaces of the cluster; the
// usual ports are free in each cage. As kubelet sets the kernel for a machine that
// is all its own, files lie over the settings it writes.
//
// When the program of tests ends, however it does, the keeper reads the end of
// its pipe and kills init, and the kernel with it every process inside; mounts and
// links go with their namespaces. The keeper removes the cgroups and the directory,
// all but the logs of a run that failed. A kept cage (Options.Keep) outlives the
// program, for the next run to go on with, until Down.
//
// On disk, in the directory of the cage:
//
//	cage.json   who its keeper and init are
//	keeper.log  what those two had to say
//	lib/ log/   /var/lib and /var/log of the inside
//	tmp/        its temporary directory
//
// The package is no sandbox: the inside is root and sees the machine's files.
package cage
