package runtime

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// newMount makes a filesystem and returns a detached mount of it. options are
// keys and values; a key with an empty value is a flag.
func newMount(fstype string, attrs int, options ...string) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for i := 0; i < len(options); i += 2 {
		key, value := options[i], options[i+1]
		if value == "" {
			err = unix.FsconfigSetFlag(fs, key)
		} else {
			err = unix.FsconfigSetString(fs, key, value)
		}
		if err != nil {
			return nil, fsError(fs, fmt.Sprintf("%s option %s=%s", fstype, key, value), err)
		}
	}
	return finishMount(fs, fstype, attrs)
}

// finishMount creates the filesystem that a context describes and mounts it.
func finishMount(fs int, fstype string, attrs int) (*os.File, error) {
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fsError(fs, "create "+fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fsError(fs, "mount "+fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// fsError adds what the kernel has to say about a filesystem context: fsopen(2)
// lets messages be read from it, each after a letter and a space.
func fsError(fs int, what string, err error) error {
	b := make([]byte, 512)
	n, _ := unix.Read(fs, b)
	if n <= 2 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%s)", what, err, strings.TrimSpace(string(b[2:n])))
}
