package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var _ = add(map[string]func(*call) error{
	"cat": cat, "tee": tee, "head": head, "tail": tail, "wc": wc, "grep": grep, "sort": sortLines,
	"uniq": uniq, "cut": cut, "tr": tr, "seq": seq, "yes": yes, "rev": rev,
})

func cat(c *call) error {
	_, args, err := c.options("u")
	if err == nil {
		c.eachInput(args, func(_ string, f *os.File) error {
			_, err := io.Copy(os.Stdout, f)
			return err
		})
	}
	return err
}

func tee(c *call) error {
	o, args, err := c.options("a")
	if err != nil {
		return err
	}
	to := []io.Writer{os.Stdout}
	for _, name := range args {
		flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if o.has("a") {
			flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
		}
		f, err := os.OpenFile(name, flags, 0o666)
		if err != nil {
			c.failed(err)
			continue
		}
		defer f.Close()
		to = append(to, f)
	}
	_, err = io.Copy(io.MultiWriter(to...), os.Stdin)
	return err
}

// amount reads -n and -c of head and tail; "-5" is "-n 5".
func (c *call) amount(letters string) (o options, n int64, bytes bool, args []string, err error) {
	if len(c.args) > 0 && len(c.args[0]) > 1 && c.args[0][0] == '-' && c.args[0][1] >= '0' && c.args[0][1] <= '9' {
		c.args = append([]string{"-n", c.args[0][1:]}, c.args[1:]...)
	}
	if o, args, err = c.options("n:c:" + letters); err != nil {
		return
	}
	text := o.value('n', "10")
	if bytes = o.has("c"); bytes {
		text = o.value('c', "")
	}
	n, err = size(text)
	return
}

func head(c *call) error {
	_, n, bytes, args, err := c.amount("q")
	if err != nil {
		return err
	}
	c.eachInput(args, func(_ string, f *os.File) error {
		if bytes {
			_, err := io.CopyN(c.out, f, n)
			if err == io.EOF {
				err = nil
			}
			return err
		}
		left := n
		if left == 0 {
			return nil
		}
		err := eachLine(f, func(line string) error {
			fmt.Fprintln(c.out, line)
			if left--; left == 0 {
				return io.EOF
			}
			return nil
		})
		if err == io.EOF {
			err = nil
		}
		return err
	})
	return nil
}

func tail(c *call) error {
	o, n, inBytes, args, err := c.amount("fq")
	if err != nil {
		return err
	}
	c.eachInput(args, func(name string, f *os.File) error {
		data, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		from := len(data) - int(n)
		if !inBytes {
			from = len(data)
			if from > 0 && data[from-1] == '\n' {
				from--
			}
			for left := n; left > 0 && from > 0; left-- {
				from = bytes.LastIndexByte(data[:from], '\n')
			}
			if n > 0 {
				from++
			}
		}
		c.out.Write(data[min(max(from, 0), len(data)):])
		for o.has("f") {
			c.out.Flush()
			time.Sleep(50 * time.Millisecond)
			if _, err := io.Copy(c.out, f); err != nil {
				return err
			}
		}
		return nil
	})
	return nil
}

func wc(c *call) error {
	o, args, err := c.options("lwcm")
	if err != nil {
		return err
	}
	if len(o) == 0 {
		o = options{'l': nil, 'w': nil, 'c': nil}
	}
	var total [4]int
	show := func(counts [4]int, name string) {
		var words []string
		for i, letter := range "lwmc" {
			if o.has(string(letter)) {
				words = append(words, strconv.Itoa(counts[i]))
			}
		}
		if name != "-" {
			words = append(words, name)
		}
		fmt.Fprintln(c.out, strings.Join(words, " "))
	}
	c.eachInput(args, func(name string, f *os.File) error {
		data, err := io.ReadAll(f)
		counts := [4]int{bytes.Count(data, []byte("\n")), len(bytes.Fields(data)), len([]rune(string(data))), len(data)}
		for i := range counts {
			total[i] += counts[i]
		}
		show(counts, name)
		return err
	})
	if len(args) > 1 {
		show(total, "total")
	}
	return nil
}

func grep(c *call) error {
	o, args, err := c.options("ivcqnowrlhsxEFe:")
	if err != nil {
		return err
	}
	patterns := o['e']
	if len(patterns) == 0 {
		if len(args) == 0 {
			return c.usage("needs a pattern")
		}
		patterns, args = strings.Split(args[0], "\n"), args[1:]
	}
	for i, p := range patterns {
		if o.has("F") {
			p = regexp.QuoteMeta(p)
		} else if !o.has("E") {
			p = extended(p)
		}
		if o.has("w") {
			p = `\b(?:` + p + `)\b`
		}
		if o.has("x") {
			p = `^(?:` + p + `)$`
		}
		patterns[i] = "(?:" + p + ")"
	}
	expr := strings.Join(patterns, "|")
	if o.has("i") {
		expr = "(?i)" + expr
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return c.usage(err.Error())
	}
	var all []string
	for _, name := range args {
		if o.has("r") {
			all = append(all, filesBelow(c, name)...)
		} else {
			all = append(all, name)
		}
	}
	found := false
	c.eachInput(all, func(name string, f *os.File) error {
		count, number := 0, 0
		prefix := ""
		if (len(all) > 1 || o.has("r")) && !o.has("h") {
			prefix = name + ":"
		}
		err := eachLine(f, func(line string) error {
			number++
			if re.MatchString(line) == o.has("v") {
				return nil
			}
			count++
			if o.has("q") || o.has("l") {
				return io.EOF
			}
			if o.has("c") {
				return nil
			}
			at := prefix
			if o.has("n") {
				at += strconv.Itoa(number) + ":"
			}
			if !o.has("o") {
				fmt.Fprintln(c.out, at+line)
				return nil
			}
			for _, match := range re.FindAllString(line, -1) {
				fmt.Fprintln(c.out, at+match)
			}
			return nil
		})
		found = found || count > 0
		if o.has("l") && count > 0 {
			fmt.Fprintln(c.out, name)
		}
		if o.has("c") {
			fmt.Fprintf(c.out, "%s%d\n", prefix, count)
		}
		if err == io.EOF {
			err = nil
		}
		return err
	})
	switch {
	case c.err != nil && !(found && o.has("q")):
		return status(2)
	case !found:
		return status(1)
	}
	c.err = nil
	return nil
}

// extended makes an extended regular expression of a basic one: there, the
// characters that group and repeat do so after a backslash.
func extended(basic string) string {
	var b strings.Builder
	for i := 0; i < len(basic); i++ {
		switch ch := basic[i]; {
		case ch == '\\' && i+1 < len(basic):
			i++
			if !strings.ContainsRune("(){}|+?", rune(basic[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(basic[i])
		case strings.ContainsRune("(){}|+?", rune(ch)), ch == '*' && i == 0:
			b.WriteString(`\` + string(ch))
		default:
			b.WriteByte(ch)
		}
	}
	return b.String()
}

func sortLines(c *call) error {
	o, args, err := c.options("nruk:t:")
	if err != nil {
		return err
	}
	var lines []string
	c.eachInput(args, func(_ string, f *os.File) error {
		return eachLine(f, func(line string) error {
			lines = append(lines, line)
			return nil
		})
	})
	field, _, _ := strings.Cut(o.value('k', "0"), ",")
	k, err := strconv.Atoi(field)
	if err != nil {
		return c.usage("-k " + field)
	}
	key := func(line string) string {
		if k == 0 {
			return line
		}
		words := strings.Fields(line)
		if o.has("t") {
			words = strings.Split(line, o.value('t', ""))
		}
		if k > len(words) {
			return ""
		}
		return words[k-1]
	}
	number := regexp.MustCompile(`^\s*-?[0-9]*\.?[0-9]*`)
	compare := func(a, b string) int {
		a, b = key(a), key(b)
		if o.has("n") {
			x, _ := strconv.ParseFloat(strings.TrimSpace(number.FindString(a)), 64)
			y, _ := strconv.ParseFloat(strings.TrimSpace(number.FindString(b)), 64)
			return cmp.Compare(x, y)
		}
		return strings.Compare(a, b)
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		order := compare(a, b)
		if order == 0 && !o.has("u") {
			order = strings.Compare(a, b)
		}
		if o.has("r") {
			order = -order
		}
		return order
	})
	if o.has("u") {
		lines = slices.CompactFunc(lines, func(a, b string) bool { return compare(a, b) == 0 })
	}
	for _, line := range lines {
		fmt.Fprintln(c.out, line)
	}
	return nil
}

func uniq(c *call) error {
	o, args, err := c.options("cdu")
	if err != nil {
		return err
	}
	last, count := "", 0
	show := func() {
		switch {
		case count == 0, o.has("d") && count == 1, o.has("u") && count > 1:
		case o.has("c"):
			fmt.Fprintf(c.out, "%7d %s\n", count, last)
		default:
			fmt.Fprintln(c.out, last)
		}
	}
	c.eachInput(args, func(_ string, f *os.File) error {
		return eachLine(f, func(line string) error {
			if count > 0 && line != last {
				show()
				count = 0
			}
			last = line
			count++
			return nil
		})
	})
	show()
	return nil
}

// ranges reads a list as "1,3-5,7-" and gives whether a number is in it.
func ranges(list string) (func(n int) bool, error) {
	var in [][2]int
	for part := range strings.SplitSeq(list, ",") {
		from, to, dash := strings.Cut(part, "-")
		r := [2]int{1, 1 << 30}
		var err error
		if from != "" {
			r[0], err = strconv.Atoi(from)
		}
		if !dash {
			r[1] = r[0]
		} else if to != "" && err == nil {
			r[1], err = strconv.Atoi(to)
		}
		if err != nil {
			return nil, err
		}
		in = append(in, r)
	}
	return func(n int) bool {
		return slices.ContainsFunc(in, func(r [2]int) bool { return r[0] <= n && n <= r[1] })
	}, nil
}

func cut(c *call) error {
	o, args, err := c.options("d:f:c:b:s")
	if err != nil {
		return err
	}
	list := o.value('f', o.value('c', o.value('b', "")))
	in, err := ranges(list)
	if err != nil {
		return c.usage("list " + list)
	}
	separator := o.value('d', "\t")
	c.eachInput(args, func(_ string, f *os.File) error {
		return eachLine(f, func(line string) error {
			parts, joint := strings.Split(line, ""), ""
			if o.has("f") {
				parts, joint = strings.Split(line, separator), separator
				if len(parts) == 1 {
					if !o.has("s") {
						fmt.Fprintln(c.out, line)
					}
					return nil
				}
			}
			var kept []string
			for i, p := range parts {
				if in(i + 1) {
					kept = append(kept, p)
				}
			}
			fmt.Fprintln(c.out, strings.Join(kept, joint))
			return nil
		})
	})
	return nil
}

// classes are the sets that tr knows by name.
var classes = strings.NewReplacer(
	"[:upper:]", "A-Z", "[:lower:]", "a-z", "[:digit:]", "0-9", "[:alpha:]", "A-Za-z", "[:alnum:]", "A-Za-z0-9",
	"[:space:]", " \t\n\v\f\r", `\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`,
)

// set gives the bytes of tr's "a-z" and the like.
func set(text string) (list []byte) {
	text = classes.Replace(text)
	for i := 0; i < len(text); i++ {
		if i+2 < len(text) && text[i+1] == '-' && text[i] <= text[i+2] {
			for b := int(text[i]); b <= int(text[i+2]); b++ {
				list = append(list, byte(b))
			}
			i += 2
			continue
		}
		list = append(list, text[i])
	}
	return list
}

func tr(c *call) error {
	o, args, err := c.options("dsc")
	if err != nil {
		return err
	}
	if len(args) == 0 || len(args) == 1 && !o.has("ds") {
		return c.usage("needs sets of characters")
	}
	from := set(args[0])
	if o.has("c") {
		var others []byte
		for b := range 256 {
			if bytes.IndexByte(from, byte(b)) < 0 {
				others = append(others, byte(b))
			}
		}
		from = others
	}
	var to []byte
	if len(args) > 1 {
		to = set(args[1])
	}
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	last := -1
	for _, b := range data {
		at := bytes.IndexByte(from, b)
		if at >= 0 && o.has("d") {
			continue
		}
		if at >= 0 && len(to) > 0 {
			b = to[min(at, len(to)-1)]
		}
		if at >= 0 && o.has("s") && int(b) == last {
			continue
		}
		last = int(b)
		c.out.WriteByte(b)
	}
	return nil
}

func seq(c *call) error {
	numbers := []int{1, 1, 1}
	var given []int
	for _, a := range c.args {
		n, err := strconv.Atoi(a)
		if err != nil {
			return c.usage(a + ": not a number")
		}
		given = append(given, n)
	}
	switch len(given) {
	case 1:
		numbers[2] = given[0]
	case 2:
		numbers[0], numbers[2] = given[0], given[1]
	case 3:
		numbers = given
	default:
		return c.usage("needs one to three numbers")
	}
	for n := numbers[0]; numbers[1] > 0 && n <= numbers[2] || numbers[1] < 0 && n >= numbers[2]; n += numbers[1] {
		fmt.Fprintln(c.out, n)
	}
	return nil
}

func yes(c *call) error {
	line := "y\n"
	if len(c.args) > 0 {
		line = strings.Join(c.args, " ") + "\n"
	}
	for {
		if _, err := os.Stdout.WriteString(line); err != nil {
			return err
		}
	}
}

func rev(c *call) error {
	c.eachInput(c.args, func(_ string, f *os.File) error {
		return eachLine(f, func(line string) error {
			r := []rune(line)
			slices.Reverse(r)
			fmt.Fprintln(c.out, string(r))
			return nil
		})
	})
	return nil
}

// size reads a number of bytes with a suffix of the powers of 1024.
func size(text string) (int64, error) {
	digits := strings.TrimRight(text, "kKMGTB")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q: not a number", text)
	}
	if suffix := text[len(digits):]; suffix != "" {
		at := strings.IndexByte("KMGT", strings.ToUpper(suffix)[0])
		if at < 0 {
			return 0, fmt.Errorf("%q: not a number", text)
		}
		n <<= 10 * (at + 1)
	}
	return n, nil
}
