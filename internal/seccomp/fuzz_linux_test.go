package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// choices takes random numbers from the fuzzer's bytes, and when there are no
// more from a generator.
type choices struct {
	data []byte
	rest *rand.PCG
}

func (c *choices) Uint64() uint64 {
	if len(c.data) < 8 {
		return c.rest.Uint64()
	}
	v := binary.LittleEndian.Uint64(c.data)
	c.data = c.data[8:]
	return v
}

func FuzzCompile(f *testing.F) {
	for seed := range uint64(8) {
		pcg := rand.NewPCG(seed, 1)
		var b []byte
		for range 64 {
			b = binary.LittleEndian.AppendUint64(b, pcg.Uint64())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rnd := rand.New(&choices{data, rand.NewPCG(1, 1)})
		p := randomProfile(rnd)
		for _, goarch := range goarches {
			code, err := Compile(p, goarch)
			if err != nil {
				t.Fatal(err)
			}
			same(t, p, goarch, code, nearNumbers(p), random(1), 4)
		}
	})
}

func FuzzCompileJSON(f *testing.F) {
	for _, s := range []string{
		`{}`,
		`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["read","socket"],"action":"SCMP_ACT_ALLOW"}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97,"args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]}]}`,
		`{"defaultAction":"SCMP_ACT_KILL","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"},{"index":1,"value":18446744073709551615,"op":"SCMP_CMP_LE"}]}]}`,
		`{"defaultAction":"SCMP_ACT_TRACE","syscalls":[{"names":[""],"action":"SCMP_ACT_NOTIFY","args":[{"index":9}]}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(data, &p) != nil {
			return
		}
		for _, goarch := range goarches {
			code, err := Compile(&p, goarch)
			if err != nil || code == nil {
				continue
			}
			same(t, &p, goarch, code, nearNumbers(&p), random(1), 4)
		}
	})
}
