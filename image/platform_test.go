package image

import (
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"":                "linux/" + runtime.GOARCH,
		"linux/amd64":     "linux/amd64",
		"linux/x86_64":    "linux/amd64",
		"linux/amd64/v3":  "linux/amd64/v3",
		"arm64":           "linux/arm64",
		"linux/aarch64":   "linux/arm64",
		"linux/arm64/v8":  "linux/arm64",
		"linux/arm64/8":   "linux/arm64",
		"linux/arm":       "linux/arm/v7",
		"linux/armhf":     "linux/arm/v7",
		"linux/armel":     "linux/arm/v6",
		"Linux/ARM/V6":    "linux/arm/v6",
		"windows/amd64":   "windows/amd64",
		"linux/riscv64":   "linux/riscv64",
		"linux/mips64/hf": "linux/mips64/hf",
	} {
		p, err := parsePlatform(in)
		if err != nil || platformString(p) != want {
			t.Errorf("%q: %s, %v, want %s", in, platformString(p), err, want)
		}
	}
	for _, in := range []string{"/", "linux/", "linux/a/b/c", "li nux/amd64", "linux/amd64\n", "/amd64"} {
		if p, err := parsePlatform(in); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v, %v", in, p, err)
		}
	}
}

// TestPlatformChoice gives what is offered in the order in which it suits.
func TestPlatformChoice(t *testing.T) {
	for _, c := range []struct {
		want    string
		offered []string
		order   []string
	}{
		{"linux/amd64", []string{"linux/arm64", "linux/amd64", "windows/amd64"}, []string{"linux/amd64"}},
		{"linux/amd64", []string{"linux/amd64/v2", "linux/amd64/v3"}, nil},
		{"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v4"}, []string{"linux/amd64/v2", "linux/amd64"}},
		{"linux/arm/v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm64"}, []string{"linux/arm/v6", "linux/arm/v5"}},
		{"linux/arm/v6", []string{"linux/arm/v7", "linux/arm/v5"}, []string{"linux/arm/v5"}},
		{"linux/arm64", []string{"linux/arm/v7", "linux/arm64/v8"}, []string{"linux/arm64/v8"}},
		{"linux/arm64/v9", []string{"linux/arm64", "linux/arm64/v8.2"}, []string{"linux/arm64/v8.2", "linux/arm64"}},
		{"linux/arm64", []string{"linux/arm64/v9"}, nil},
		{"linux/ppc64le", []string{"linux/ppc64", "linux/ppc64le"}, []string{"linux/ppc64le"}},
		{"linux/amd64", []string{"unknown/unknown"}, nil},
	} {
		want, err := parsePlatform(c.want)
		if err != nil {
			t.Fatal(err)
		}
		index := new(ocispec.Index)
		for _, o := range c.offered {
			p, err := parsePlatform(o)
			if err != nil {
				t.Fatal(err)
			}
			if p.Architecture == "arm64" && p.Variant == "v8" {
				p.Variant = "" // as most indexes have it
			}
			index.Manifests = append(index.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Platform: &p})
		}
		var got, order []string
		for _, k := range candidates(index, want) {
			got = append(got, platformString(*k.Platform))
		}
		for _, o := range c.order {
			p, _ := parsePlatform(o)
			order = append(order, platformString(p))
		}
		if !slices.Equal(got, order) {
			t.Errorf("%s of %v: %v, want %v", c.want, c.offered, got, order)
		}
	}
}

func TestAttestationsAreNoCandidates(t *testing.T) {
	p := hostPlatform
	index := &ocispec.Index{Manifests: []ocispec.Descriptor{
		{MediaType: ocispec.MediaTypeImageManifest, Platform: &p, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}},
		{MediaType: ocispec.MediaTypeImageManifest, Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}},
		{MediaType: "application/vnd.example+json", Platform: &p},
		{MediaType: "application/vnd.example+json"},
	}}
	if c := candidates(index, p); len(c) > 0 {
		t.Errorf("%+v", c)
	}
	if have := platformsOf(index); len(have) != 1 {
		t.Errorf("offers %v", have)
	}
}
