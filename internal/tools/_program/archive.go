package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

var _ = add(map[string]func(*call) error{
	"tar": tarTool, "gzip": gzipTool, "gunzip": gzipTool, "zcat": gzipTool, "sha256sum": sum, "md5sum": sum, "base64": base64Tool,
})

func tarTool(c *call) error {
	if len(c.args) > 0 && !strings.HasPrefix(c.args[0], "-") {
		c.args[0] = "-" + c.args[0]
	}
	o, args, err := c.options("cxtvzpf:C:O")
	if err != nil {
		return err
	}
	name := o.value('f', "-")
	open := func(create bool) (*os.File, error) {
		switch {
		case name == "-" && create:
			return os.Stdout, nil
		case name == "-":
			return os.Stdin, nil
		case create:
			return os.Create(name)
		}
		return os.Open(name)
	}
	f, err := open(o.has("c"))
	if err != nil {
		return err
	}
	if dir := o.value('C', ""); dir != "" {
		if err := os.Chdir(dir); err != nil {
			return err
		}
	}
	switch {
	case o.has("c"):
		return pack(o, f, args)
	case o.has("xt"):
		return unpack(c, o, f, args)
	}
	return c.usage("needs one of -c, -x and -t")
}

func pack(o options, f *os.File, names []string) error {
	var to io.WriteCloser = f
	if o.has("z") {
		to = gzip.NewWriter(f)
	}
	w := tar.NewWriter(to)
	links := make(map[uint64]string)
	for _, name := range names {
		err := filepath.WalkDir(name, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return packOne(w, path, links)
		})
		if err != nil {
			return err
		}
	}
	err := w.Close()
	if o.has("z") {
		err = errors.Join(err, to.Close())
	}
	return errors.Join(err, f.Close())
}

// packOne writes a member; links are the files that have more names.
func packOne(w *tar.Writer, path string, links map[uint64]string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	target, _ := os.Readlink(path)
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = strings.TrimLeft(path, "/")
	if info.IsDir() {
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	}
	h.Uname, h.Gname = "", ""
	if st := info.Sys().(*unixStat); st.Nlink > 1 && h.Typeflag == tar.TypeReg {
		if first, ok := links[st.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			links[st.Ino] = h.Name
		}
	}
	if err := w.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return errors.Join(err, in.Close())
}

// unpack lists or extracts the members that are named, or all.
func unpack(c *call, o options, f *os.File, names []string) error {
	var from io.Reader = f
	if o.has("z") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return err
		}
		from = z
	}
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		wanted := len(names) == 0
		for _, name := range names {
			wanted = wanted || filepath.Clean(name) == filepath.Clean(h.Name) || strings.HasPrefix(h.Name, strings.TrimSuffix(name, "/")+"/")
		}
		if !wanted {
			continue
		}
		if o.has("tv") {
			fmt.Fprintln(c.out, h.Name)
		}
		switch {
		case o.has("O") && h.Typeflag == tar.TypeReg:
			_, err = io.Copy(c.out, r)
		case o.has("x"):
			err = extract(h, r)
		}
		if err != nil {
			return err
		}
	}
}

func extract(h *tar.Header, r io.Reader) error {
	if !filepath.IsLocal(h.Name) && filepath.Clean(h.Name) != "." {
		return fmt.Errorf("%s: leads out of the directory", h.Name)
	}
	if err := os.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
		return err
	}
	mode := uint32(h.Mode) & 0o7777
	if h.Typeflag != tar.TypeDir {
		os.Remove(h.Name)
	}
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = os.Mkdir(h.Name, 0o700); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case tar.TypeReg:
		var f *os.File
		if f, err = os.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			_, err = io.Copy(f, r)
			err = errors.Join(err, f.Close())
		}
	case tar.TypeSymlink:
		err = os.Symlink(h.Linkname, h.Name)
	case tar.TypeLink:
		return os.Link(h.Linkname, h.Name)
	case tar.TypeFifo:
		err = unix.Mkfifo(h.Name, mode)
	case tar.TypeChar:
		err = unix.Mknod(h.Name, unix.S_IFCHR|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknod(h.Name, unix.S_IFBLK|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		return nil
	}
	if err == nil && os.Geteuid() == 0 {
		err = os.Lchown(h.Name, h.Uid, h.Gid)
	}
	if err == nil && h.Typeflag != tar.TypeSymlink {
		err = errors.Join(unix.Chmod(h.Name, mode), os.Chtimes(h.Name, h.ModTime, h.ModTime))
	}
	return err
}

func gzipTool(c *call) error {
	o, args, err := c.options("dcfk123456789")
	if err != nil {
		return err
	}
	if len(args) > 0 && !(len(args) == 1 && args[0] == "-") && !o.has("c") && c.name != "zcat" {
		return c.usage("only -c, and standard input")
	}
	c.eachInput(args, func(_ string, f *os.File) error {
		if o.has("d") || c.name != "gzip" {
			z, err := gzip.NewReader(f)
			if err == nil {
				_, err = io.Copy(c.out, z)
			}
			return err
		}
		z := gzip.NewWriter(c.out)
		_, err := io.Copy(z, f)
		return errors.Join(err, z.Close())
	})
	return nil
}

func sum(c *call) error {
	c.eachInput(c.args, func(name string, f *os.File) error {
		var h hash.Hash = sha256.New()
		if c.name == "md5sum" {
			h = md5.New()
		}
		_, err := io.Copy(h, f)
		if err == nil {
			fmt.Fprintf(c.out, "%x  %s\n", h.Sum(nil), name)
		}
		return err
	})
	return nil
}

func base64Tool(c *call) error {
	o, args, err := c.options("dw:")
	if err != nil {
		return err
	}
	c.eachInput(args, func(_ string, f *os.File) error {
		data, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		if o.has("d") {
			data, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(data)), ""))
			c.out.Write(data)
			return err
		}
		fmt.Fprintln(c.out, base64.StdEncoding.EncodeToString(data))
		return nil
	})
	return nil
}
