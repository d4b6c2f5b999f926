package atomicfile

import "os"

func syncDir(*os.File) error { return nil }
