// Package diskusage knows what the writable layers of containers take up,
// without walking over them when it is asked.
//
// # How a figure stays right
//
// An Accountant keeps one figure for each layer. One goroutine for the node
// brings them up to date behind the scenes, the cheapest first: those that were
// asked for, and now and then those that were written to. It does so in one of
// two ways:
//
//   - A full walk looks at each file. It leaves behind, for each directory, the
//     sum of the files in it and the time the directory was last changed.
//   - A pass over the directories goes on from there: only a directory that
//     was changed is read again. That finds all that was created, deleted,
//     renamed or copied up. What it cannot find is a file that grew in place.
//
// So a pass is enough as long as no file was written to, which fanotify tells:
// the overlay's super block is marked, once for every open file and mount
// namespace, and the first write or close after a write makes the mark's group
// readable. The group is then closed, which drops the mark: a container that
// writes all the time pays for one event, until the next full walk marks it
// anew. The events themselves are never read, because to read one opens the file
// it is about, which may be a pipe or a device.
//
// A kernel permits few groups (fs.fanotify.max_user_groups, 128). Layers
// therefore share them where there are many, and a write to one makes all of a
// group suspect. Where there is no fanotify at all every look is a full walk.
//
// # What it may cost
//
// A layer that is asked for is looked at again at the earliest after a second
// and after twenty times as long as the last look took. While its mark stands and
// passes find nothing, it is left alone for longer each time, up to a minute: a
// write ends that at once, so that it is an emptied or a renamed file, or one of no
// bytes, that is seen late. One that was written to
// and is not asked for, after half a minute and a hundred times as long. A look
// begins thirty milliseconds after it was asked for, when whoever asked has been
// answered, and works for ten milliseconds at a time and rests for thirty. Whatever a watch may
// have missed (truncate(2) by path makes no event), a full walk finds at the
// latest after ten minutes, or two hundred times its own duration.
//
// # Locks, and what nothing is held by
//
// Accountant.mu guards the table and is never held over I/O. A mark holds
// neither the mount nor its super block; an event does, until its group is
// closed, which a goroutine for each group does at once. Nothing is on disk:
// after a restart every layer is walked once.
//
// Paths in a layer are the container's to change at any moment. Directories are
// therefore opened one by one, never through a symbolic link.
package diskusage
