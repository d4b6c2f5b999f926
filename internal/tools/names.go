package tools

// Names are the names by which the program can be called, sorted.
var Names = []string{
	"[", "base64", "basename", "cat", "chgrp", "chmod", "chown", "chroot", "cp", "cut", "date", "dd", "df", "dirname",
	"echo", "env", "false", "find", "grep", "gunzip", "gzip", "head", "hostname", "id", "kill", "ln", "ls", "md5sum",
	"mkdir", "mkfifo", "mknod", "mktemp", "mount", "mv", "nproc", "printenv", "printf", "ps", "pwd", "readlink",
	"realpath", "rev", "rm", "rmdir", "seq", "setsid", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "tar",
	"tee", "test", "timeout", "touch", "tr", "true", "truncate", "tty", "umount", "uname", "uniq", "wc", "which", "whoami",
	"xargs", "yes", "zcat",
}
