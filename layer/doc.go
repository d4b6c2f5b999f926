// Package layer keeps the layers of images on disk, and makes them ready to be
// the lower layers of an overlay. It is useful without the rest of the module:
// a tar goes in, a read-only directory tree comes out.
//
// # Model
//
// A Store is a directory, a Layer in it is known by its diff ID, the SHA-256 of
// its tar. A layer has one of two forms, which show the same files:
//
//   - FormIndex: the layer's tar as it is, and an EROFS image that holds names,
//     attributes and, as its data, ranges of the tar. The kernel mounts that
//     without a loop device. No file of the layer is ever created on the host,
//     so adding one costs what decompressing and hashing it costs, removing it
//     is a few unlinks, and no name of a hostile archive is ever resolved there.
//   - FormDirectory: the files in a directory, for kernels, filesystems and
//     users that cannot have the other one. The tar is not kept: the blob that
//     it came from gives it again.
//
// What extracting the archive would leave is worked out in memory while the
// stream arrives: the last member of a name wins, a directory updates a
// directory, links share an inode, names are resolved as in a chroot, parents
// that no member names are root's with mode 0755 and time 0. AUFS whiteouts
// become overlayfs's; a device 0:0 in an archive stays what it is, which
// overlayfs takes for a whiteout. overlayfs's own xattrs are dropped. See
// Layer.Opaque for what an overlay cannot express. GNU tar, run by root with
// all attributes, extracts the same tree, down to the nanosecond.
//
// A layer knows nothing of those below it, so a directory that its archive only
// implies hides how they have it: below a layer with tmp/x and no tmp, /tmp
// would have mode 0755. Cover makes what puts a stack of layers right.
//
// # On disk
//
//	sha256/<hex of the diff ID>/layer.json   record: form, sizes
//	                           /tar          index form: the tar, padded to 512
//	                           /index        the EROFS image
//	                           /data         what the tar has not as whole blocks:
//	                                         sparse files, and files whose padding
//	                                         is not zero; often not there
//	                           /tree/        directory form: the files
//	                           /implied      directories that no member names;
//	                                         often not there
//	tmp/<random>/ and <random>.lock          a layer that is being made or removed,
//	                                         or a cover
//
// All directories have mode 0700: set-uid files of layers are out of reach of
// the host's users. Nothing but a Store may write there: the kernel believes an
// index, so what this store did not write is never mounted.
//
// # Bounds
//
// What a layer takes beside the bytes of its files depends on how many names its
// tree has, with the directories that the archive only implies, and on the bytes
// of its headers: names, targets of links, extended attributes, maps of sparse
// files. An index has at most 256 bytes for each name and three times the bytes of
// the headers. Add takes at most 64 MiB of memory, 800 bytes for each name and ten
// times the bytes of the headers; at about five million names it ends with
// errdefs.ErrResourceExhausted. How large the files are changes neither.
//
// Names have up to 255 bytes, their paths up to 4096, as Linux has them; an archive
// with longer ones gives an error that names the member.
//
// # Lifecycle
//
// Store.Add makes a layer in tmp, syncs it and renames it, so that a layer is
// there whole or not at all, after kill -9 or loss of power too. The directory
// in tmp has a lock that dies with its process; Open removes those whose lock
// is free. Layer.Mount gives a detached mount, or the directory, which is shared
// in the Store and kept until Store.Close or Store.Remove. What Cover makes lies
// in tmp until its Mount is closed. A process that is killed leaves no mount, as
// none is attached anywhere, and in tmp what the next Open removes.
//
// # Concurrency and privileges
//
// All methods may be called by several goroutines at once, and several programs
// may have Stores of one directory. A program that removes a layer has to know
// that no other one uses it.
//
// Index form: Add needs no privileges and works on every system; Mount needs
// CAP_SYS_ADMIN in the initial user namespace and Linux 6.12, and a filesystem
// below the store that is not tmpfs or overlay. Directory form: Linux 5.6,
// and root's CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE, CAP_MKNOD, CAP_SETFCAP,
// CAP_SYS_ADMIN (for trusted xattrs). The times of files are cut to what
// the host's filesystem can store there.
package layer
