package output

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	jmespath "github.com/jmespath/go-jmespath"
)

// CheckQuery refuses what is not a JMESPath expression.
func CheckQuery(query string) error {
	_, err := compile(query)
	return err
}

// Search applies a query to decoded JSON.
func Search(query string, v any) (out any, err error) {
	q, err := compile(query)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
		if err != nil {
			out, err = nil, fmt.Errorf("the query %q cannot be applied: %w", query, err)
		}
	}()
	return q.Search(v)
}

// compile guards against a fault of the library, which panics on some malformed queries.
func compile(query string) (q *jmespath.JMESPath, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
		if err != nil {
			q, err = nil, fmt.Errorf("%q is not a JMESPath expression: %w", query, err)
		}
	}()
	return jmespath.Compile(quoteLiterals(query))
}

// token is a string, a quoted name or a literal of a query.
var token = regexp.MustCompile(`'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|` + "`(?:[^`\\\\]|\\\\.)*`")

// quoteLiterals puts quotes around text in backticks that is not JSON, as in [?name==`rg`]:
// so JMESPath had it once, the Python library that az uses still does, and many published
// queries rely on it.
func quoteLiterals(query string) string {
	return token.ReplaceAllStringFunc(query, func(t string) string {
		text, isLiteral := strings.CutPrefix(t, "`")
		text = strings.TrimSuffix(text, "`")
		if !isLiteral || json.Valid([]byte(strings.ReplaceAll(text, "\\`", "`"))) {
			return t
		}
		quoted := `"` + strings.TrimLeft(text, " ") + `"`
		if !json.Valid([]byte(strings.ReplaceAll(quoted, "\\`", "`"))) {
			return t // the library says what is wrong with it
		}
		return "`" + quoted + "`"
	})
}
