// Package output prints results as az does: JSON, YAML, a table or tab-separated values,
// after a JMESPath query.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Formats are the values of --output.
var Formats = []string{"json", "jsonc", "yaml", "yamlc", "table", "tsv", "none"}

// Printer prints results.
type Printer struct {
	Out    io.Writer
	Format string
	Query  string // JMESPath; "" means the whole result
	Color  bool   // whether jsonc and yamlc may use colours
	// Table shapes a result for the table format when there is no query.
	Table string
}

// Check refuses a format or a query that does not exist, before any work is done.
func (p *Printer) Check() error {
	if !slices.Contains(Formats, p.Format) {
		return fmt.Errorf("--output: %q is not one of %s", p.Format, strings.Join(Formats, ", "))
	}
	if p.Query != "" {
		if err := CheckQuery(p.Query); err != nil {
			return fmt.Errorf("--query: %w", err)
		}
	}
	return nil
}

// Print prints a result; nil prints nothing, as az does after a deletion.
func (p *Printer) Print(v any) error {
	if v == nil || p.Format == "none" {
		return nil
	}
	query := p.Query
	if query == "" && p.Format == "table" {
		query = p.Table
	}
	if query != "" {
		var err error
		if v, err = Search(query, v); err != nil {
			return err
		}
	}
	if v == nil && p.Format != "json" && p.Format != "jsonc" {
		return nil
	}
	var b bytes.Buffer
	switch p.Format {
	case "tsv":
		tsv(&b, v, query)
	case "table":
		table(&b, v, query)
	case "yaml", "yamlc":
		enc := yaml.NewEncoder(&b)
		enc.SetIndent(2)
		if err := enc.Encode(plain(v)); err != nil {
			return err
		}
	default:
		if err := encodeJSON(&b, v, p.Format == "jsonc" && p.Color); err != nil {
			return err
		}
	}
	_, err := p.Out.Write(b.Bytes())
	return err
}

func encodeJSON(b *bytes.Buffer, v any, color bool) error {
	if v == nil {
		return nil // az prints nothing for a query without result
	}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	if color {
		colored := highlight(b.String())
		b.Reset()
		b.WriteString(colored)
	}
	return nil
}

const (
	blue  = "\x1b[94m"
	green = "\x1b[32m"
	reset = "\x1b[0m"
)

// highlight colours the keys and the strings of indented JSON, a line at a time.
func highlight(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		body := strings.TrimLeft(line, " ")
		b.WriteString(line[:len(line)-len(body)])
		if key, rest, ok := strings.Cut(body, `": `); ok && strings.HasPrefix(body, `"`) {
			b.WriteString(blue + key + `"` + reset + ": ")
			body = rest
		}
		if strings.HasPrefix(body, `"`) {
			end := strings.LastIndexByte(body, '"') + 1
			b.WriteString(green + body[:end] + reset)
			body = body[end:]
		}
		b.WriteString(body)
	}
	return b.String()
}

// plain turns whole floats into integers, because YAML would print 3 as 3.0e+00.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = plain(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = plain(e)
		}
		return out
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	}
	return v
}

func scalar(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// keys are an object's keys as az orders them: by name.
func keys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// tsv prints a row a line; what is nested inside a row is not shown, only how much it is.
func tsv(b *bytes.Buffer, v any, query string) {
	rows, ok := v.([]any)
	if !ok {
		rows = []any{v}
	}
	for _, row := range rows {
		var cells []any
		switch row := row.(type) {
		case map[string]any:
			names := keys(row)
			inQueryOrder(names, query)
			for _, k := range names {
				cells = append(cells, row[k])
			}
		case []any:
			cells = row
		case bool:
			cells = []any{strconv.FormatBool(row)} // in lower case when it stands alone, as az has it
		default:
			cells = []any{row}
		}
		for i, c := range cells {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(cell(c))
		}
		b.WriteByte('\n')
	}
}

func cell(v any) string {
	switch v := v.(type) {
	case []any:
		return strconv.Itoa(len(v))
	case map[string]any:
		return ""
	case nil:
		return "None"
	case bool:
		return tableCell(v)
	}
	return strings.NewReplacer("\t", " ", "\n", " ").Replace(scalar(v))
}

// table prints columns as az does: headings with a capital, a line of dashes, two spaces
// between columns; nested values are left out.
func table(b *bytes.Buffer, v any, query string) {
	rows, ok := v.([]any)
	if !ok {
		rows = []any{v}
	}
	var heads []string
	var lines []map[string]string
	for _, row := range rows {
		line := map[string]string{}
		add := func(head string, value any) {
			switch value.(type) {
			case map[string]any, []any:
				return
			}
			if value == nil {
				return
			}
			if !slices.Contains(heads, head) {
				heads = append(heads, head)
			}
			line[head] = tableCell(value)
		}
		switch row := row.(type) {
		case map[string]any:
			for _, k := range keys(row) {
				if k != "id" && k != "type" && k != "etag" {
					add(capital(k), row[k])
				}
			}
		case []any:
			for i, e := range row {
				add("Column"+strconv.Itoa(i+1), e)
			}
		default:
			add("Result", row)
		}
		lines = append(lines, line)
	}
	if len(heads) == 0 {
		return
	}
	inQueryOrder(heads, query)
	widths := make([]int, len(heads))
	for i, h := range heads {
		widths[i] = utf8.RuneCountInString(h) + 2 // as tabulate does, which az prints with
		for _, l := range lines {
			widths[i] = max(widths[i], utf8.RuneCountInString(l[h]))
		}
	}
	write := func(get func(i int) string) {
		var line strings.Builder
		for i := range heads {
			if i > 0 {
				line.WriteString("  ")
			}
			line.WriteString(get(i) + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(get(i))))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	write(func(i int) string { return heads[i] })
	write(func(i int) string { return strings.Repeat("-", widths[i]) })
	for _, l := range lines {
		write(func(i int) string { return l[heads[i]] })
	}
}

// inQueryOrder puts columns that a query names itself, {Name: name, …}, into the order in
// which it does: az keeps that order, and a Go map cannot.
func inQueryOrder(heads []string, query string) {
	if !strings.Contains(query, "{") {
		return
	}
	position := func(head string) int {
		m := regexp.MustCompile(`(?i)[{,]\s*"?` + regexp.QuoteMeta(head) + `"?\s*:`).FindStringIndex(query)
		if m == nil {
			return len(query)
		}
		return m[0]
	}
	sort.SliceStable(heads, func(i, j int) bool { return position(heads[i]) < position(heads[j]) })
}

func tableCell(v any) string {
	if b, ok := v.(bool); ok {
		return capital(strconv.FormatBool(b))
	}
	return scalar(v)
}

// capital is a text with its first letter in upper case.
func capital(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return strings.ToUpper(s[:n]) + s[n:]
}
