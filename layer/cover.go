package layer

import (
	"context"
	"fmt"
	"slices"
)

// Cover makes what is to lie on top of a stack of layers, given topmost first,
// so that its directories look as after unpacking one layer over the other.
//
// The archive of a layer may have tmp/x and no member tmp, and so says nothing
// of /tmp. An overlay shows the attributes of the topmost directory all the
// same, which in that layer are invented (see the package's Model). The cover
// has each such directory once more, with mode, owner, time and xattrs that it
// has in the topmost layer that names it, unless a whiteout or another file
// between the two has removed that one. An opaque whiteout in a directory hides
// what is in it, not the directory. A symlink of a lower layer is replaced by
// a directory that a layer above implies, where unpacking would follow it:
// layers are made apart from each other.
//
// It is nil where there is nothing to cover, which for most images takes no
// system call to find out. Otherwise it has the form of the topmost layer, and
// lies in the store of that one. The caller closes it when no overlay stands on
// it any more; what a killed program leaves of it is removed by the next Open
// of the store. A layer that is Opaque must be the last of the stack, as there
// is nothing below it. The privileges are those of Store.Add for a directory,
// and of Layer.Mount for an index.
//
// Cover ends early when ctx does. A damaged list of implied directories gives
// errdefs.ErrDataLoss; more directories to cover than one archive may have,
// errdefs.ErrResourceExhausted. Several calls may run at once.
func Cover(ctx context.Context, stack []*Mount) (*Mount, error) {
	if !slices.ContainsFunc(stack, func(m *Mount) bool { return m.m.implied > 0 }) {
		return nil, nil
	}
	m, err := cover(ctx, stack)
	if err != nil {
		return nil, fmt.Errorf("cover implied directories: %w", explain(err))
	}
	return m, nil
}
