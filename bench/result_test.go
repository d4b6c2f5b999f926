//go:build linux

package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestResultQuotients(t *testing.T) {
	time := newResult("start", "ms", 4.1, 1, map[string]float64{"crun": 15.8})
	if time.OverLimit != 4.1 || time.Peers["crun"] != (PeerValue{15.8, 3.85}) {
		t.Errorf("time: %+v", time)
	}
	rate := newResult("parallel", rateUnit, 360, 720, map[string]float64{"docker": 3})
	if rate.OverLimit != 2 || rate.Peers["docker"].TimesOurs != 120 {
		t.Errorf("rate: %+v", rate)
	}
	zero := newResult("mounts", "lines", 0, 0, map[string]float64{"docker": 400})
	if zero.OverLimit != 0 || zero.Peers["docker"] != (PeerValue{400, 0}) {
		t.Errorf("nothing of ours to divide by: %+v", zero)
	}
}

func TestRound(t *testing.T) {
	for in, want := range map[float64]float64{0: 0, 1.2345: 1.23, 0.00123456: 0.00123, 98765: 98800, 9.999: 10, -1.2345: -1.23} {
		if got := round(in); got != want {
			t.Errorf("round(%v) = %v, want %v", in, got, want)
		}
	}
}

func TestPrintJSON(t *testing.T) {
	var out strings.Builder
	print := printJSON(&out)
	for _, r := range []Result{
		newResult("start", "ms", 4.1, 1, map[string]float64{"crun": 15.99}),
		newResult("mounts", "lines", 0, 0, nil),
	} {
		if err := print(r); err != nil {
			t.Fatal(err)
		}
	}
	want := `{"name":"start","unit":"ms","ours":4.1,"limit":1,"over_limit":4.1,"peers":{"crun":{"value":16,"times_ours":3.9}}}
{"name":"mounts","unit":"lines","ours":0}
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	var back Result
	if err := json.Unmarshal([]byte(strings.Split(out.String(), "\n")[0]), &back); err != nil {
		t.Error(err)
	}
}

func TestPrintTable(t *testing.T) {
	var out strings.Builder
	print := printTable(&out, []string{"crun", "docker"})
	for _, r := range []Result{
		newResult("start", "ms", 4.1, 1, map[string]float64{"crun": 16}),
		newResult("mounts", "lines", 0, 0, map[string]float64{"docker": 400}),
	} {
		if err := print(r); err != nil {
			t.Fatal(err)
		}
	}
	want := `|  | ours | limit | ÷ limit | crun | docker |
| --- | --- | --- | --- | --- | --- |
| start | 4.10 ms | 1 ms | 4.10 | 16 ms (3.90) |  |
| mounts | 0 lines |  |  |  | 400 lines |
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
