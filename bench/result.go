//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Result is one line of output.
type Result struct {
	Name string `json:"name"`
	// Unit of Ours, of Limit and of each peer's Value.
	Unit string  `json:"unit"`
	Ours float64 `json:"ours"`
	// Limit is what no engine can be better than, measured in the same run.
	// Without one it is zero, and so is OverLimit.
	Limit float64 `json:"limit,omitempty"`
	// OverLimit and each peer's TimesOurs are quotients that are above 1 where
	// ours is worse than the limit, and better than the peer: for a rate they
	// are the other way up than for a time.
	OverLimit float64              `json:"over_limit,omitempty"`
	Peers     map[string]PeerValue `json:"peers,omitempty"`
	// Also holds further values that were measured in the same rounds, in Unit
	// unless their name begins with "over_".
	Also map[string]float64 `json:"also,omitempty"`
}

// PeerValue is a peer's part of a Result.
type PeerValue struct {
	Value     float64 `json:"value"`
	TimesOurs float64 `json:"times_ours"`
}

// rateUnit marks results of which more is better.
const rateUnit = "1/s"

// newResult computes the quotients.
func newResult(name, unit string, ours, limit float64, peers map[string]float64) Result {
	r := Result{Name: name, Unit: unit, Ours: round(ours), Limit: round(limit)}
	quotient := func(a, b float64) float64 {
		if unit == rateUnit {
			a, b = b, a
		}
		if b == 0 {
			return 0
		}
		return round(a / b)
	}
	r.OverLimit = quotient(ours, limit)
	if len(peers) > 0 {
		r.Peers = map[string]PeerValue{}
	}
	for peer, value := range peers {
		r.Peers[peer] = PeerValue{Value: round(value), TimesOurs: quotient(value, ours)}
	}
	return r
}

// round keeps three digits: more are noise.
func round(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// printJSON prints one object a line.
func printJSON(w io.Writer) func(Result) error {
	encoder := json.NewEncoder(w)
	return func(r Result) error { return encoder.Encode(r) }
}

// printTable prints rows of one Markdown table, each as it comes.
func printTable(w io.Writer, peers []string) func(Result) error {
	columns := append([]string{"", "ours", "limit", "÷ limit"}, peers...)
	begun := false
	row := func(cells []string) error {
		_, err := fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
		return err
	}
	return func(r Result) error {
		if !begun {
			begun = true
			if err := row(columns); err != nil {
				return err
			}
			if err := row(slices.Repeat([]string{"---"}, len(columns))); err != nil {
				return err
			}
		}
		return row(cells(r, peers))
	}
}

func cells(r Result, peers []string) []string {
	value := func(v float64) string { return fmt.Sprintf("%s %s", number(v), r.Unit) }
	row := []string{r.Name, value(r.Ours), "", ""}
	if r.Limit != 0 {
		row[2] = value(r.Limit)
	}
	if r.OverLimit != 0 {
		row[3] = number(r.OverLimit)
	}
	for _, peer := range peers {
		cell := ""
		if p, ok := r.Peers[peer]; ok {
			cell = value(p.Value)
			if p.TimesOurs != 0 {
				cell += fmt.Sprintf(" (%s)", number(p.TimesOurs))
			}
		}
		row = append(row, cell)
	}
	return row
}

// number avoids exponents.
func number(v float64) string {
	text := fmt.Sprintf("%.3f", v)
	switch {
	case math.Abs(v) >= 100 || v == math.Trunc(v):
		text = fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		text = fmt.Sprintf("%.1f", v)
	case math.Abs(v) >= 1:
		text = fmt.Sprintf("%.2f", v)
	}
	return text
}
