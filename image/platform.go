package image

import (
	"cmp"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var platformPart = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// parsePlatform reads os/arch or os/arch/variant, or an architecture alone,
// which is Linux's. Empty is Linux on this machine's architecture: containers
// are Linux's wherever their image is kept.
func parsePlatform(s string) (ocispec.Platform, error) {
	if s == "" {
		return normalPlatform(ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}), nil
	}
	parts := strings.Split(s, "/")
	if len(parts) == 1 {
		parts = []string{"linux", parts[0]}
	}
	for _, p := range parts {
		if len(parts) > 3 || !platformPart.MatchString(p) {
			return ocispec.Platform{}, fmt.Errorf("platform %q is not os/arch or os/arch/variant: %w", s, errdefs.ErrInvalidArgument)
		}
	}
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return normalPlatform(p), nil
}

// normalPlatform maps the names that tools use for one architecture to Go's, and
// gives a variant of arm, arm64 and amd64 its full form (arm is v7, arm64 v8,
// amd64 v1 when nothing is said), as containerd's platforms package reads them.
func normalPlatform(p ocispec.Platform) ocispec.Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i486", "i586", "i686":
		p.Architecture = "386"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", cmp.Or(p.Variant, "v7")
	case "armel":
		p.Architecture, p.Variant = "arm", cmp.Or(p.Variant, "v6")
	}
	switch p.Architecture {
	case "arm":
		p.Variant = cmp.Or(p.Variant, "v7")
	case "arm64":
		p.Variant = cmp.Or(p.Variant, "v8")
	case "amd64":
		p.Variant = cmp.Or(p.Variant, "v1")
	default:
		return p
	}
	if p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	return p
}

func platformString(p ocispec.Platform) string {
	p = normalPlatform(p)
	s := cmp.Or(p.OS, "unknown") + "/" + cmp.Or(p.Architecture, "unknown")
	if p.Variant != "" && (p.Architecture != "arm64" || p.Variant != "v8") && (p.Architecture != "amd64" || p.Variant != "v1") {
		s += "/" + p.Variant
	}
	return s
}

// platformRank says how well an image for have runs on want: higher is better,
// negative is not at all. A processor runs what was built for an older variant
// of its architecture, and the newest of those is best.
func platformRank(want, have ocispec.Platform) int {
	want, have = normalPlatform(want), normalPlatform(have)
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return -1
	}
	if want.Variant == have.Variant {
		return 1 << 20
	}
	w, ok1 := variantNumber(want.Variant)
	h, ok2 := variantNumber(have.Variant)
	switch {
	case ok1 && ok2 && h <= w:
		return h
	case have.Variant == "":
		return 0
	}
	return -1
}

// variantNumber orders v6, v8, v8.2, v9: a hundred for each major version.
func variantNumber(v string) (int, bool) {
	rest, ok := strings.CutPrefix(v, "v")
	if !ok {
		return 0, false
	}
	major, minor, _ := strings.Cut(rest, ".")
	a, err := strconv.ParseUint(major, 10, 8)
	if err != nil {
		return 0, false
	}
	b, err := strconv.ParseUint(cmp.Or(minor, "0"), 10, 8)
	if err != nil || b > 99 {
		return 0, false
	}
	return int(a)*100 + int(b), true
}

// candidate is a manifest of an index that may be what is wanted.
type candidate struct {
	ocispec.Descriptor
	stated bool // the index says that it is for the wanted platform
}

// isAttestation tells what BuildKit puts beside images: what it says about one,
// for the platform unknown/unknown.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" || d.Platform != nil && d.Platform.OS == "unknown"
}

// candidates gives what is worth fetching from an index, best first: what says
// that it runs on the wanted platform, then what says nothing about platforms
// (an index in the index, or a manifest whose config must tell).
func candidates(index *ocispec.Index, want ocispec.Platform) []candidate {
	var stated, silent []candidate
	for _, d := range index.Manifests {
		switch {
		case isAttestation(d):
		case d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "":
			if isIndexType(d.MediaType) || isManifestType(d.MediaType) {
				silent = append(silent, candidate{d, false})
			}
		case platformRank(want, *d.Platform) >= 0 && (isIndexType(d.MediaType) || isManifestType(d.MediaType)):
			stated = append(stated, candidate{d, true})
		}
	}
	slices.SortStableFunc(stated, func(a, b candidate) int {
		return cmp.Compare(platformRank(want, *b.Platform), platformRank(want, *a.Platform))
	})
	return append(stated, silent...)
}

// platformsOf lists what an index offers, for an error's text.
func platformsOf(index *ocispec.Index) []string {
	var names []string
	for _, d := range index.Manifests {
		if d.Platform == nil || isAttestation(d) {
			continue
		}
		if n := platformString(*d.Platform); !slices.Contains(names, n) && len(names) < 20 && len(n) < 64 {
			names = append(names, n)
		}
	}
	return names
}
