// Package inside reads and writes the files of a container from outside, without
// running anything in it.
//
// The container is hostile: while its files are walked it may replace any
// directory by a symbolic link to / of the machine. Two mistakes were made with
// that elsewhere. Who resolves a path, and uses the result later, is led astray
// in between (CVE-2018-15664); who changes root into the container and then loads
// code, runs the container's (CVE-2019-14271). So
//
//   - paths are resolved by the kernel, in the call that uses them, with
//     openat2(RESOLVE_IN_ROOT): a link never leads out, whenever it appears;
//   - below a directory that is open only single names are used, with O_NOFOLLOW;
//   - a file is looked at (O_PATH) before it is opened for reading, since to open
//     a device may do something, and a pipe would wait;
//   - this process stays in its own root and loads nothing.
//
// What a tar has of extended attributes is left out. Device nodes are not made:
// whoever may copy is not thereby given devices.
package inside
