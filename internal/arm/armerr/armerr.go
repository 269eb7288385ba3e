// Package armerr is the one shape in which Berth reports errors over ARM, and the
// table of codes it uses. Handlers and reconcilers return *Error; exactly one function,
// Write, turns any error into an answer. What is not an *Error is answered with a fixed
// text, so that no internal detail leaves the process.
package armerr

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is an ARM error: what happened, which rule, what to do next.
type Error struct {
	Status     int           // HTTP status; 0 means that of the code, see Codes
	Code       string        // one of Codes
	Message    string        // a full sentence for people
	Target     string        // path of the field, or the ID, that it is about
	Details    []*Error      // every single finding, when there are several
	RetryAfter time.Duration // > 0: when to try again
	Header     http.Header   // further headers of the answer, e.g. WWW-Authenticate
	cause      error
}

func (e *Error) Error() string {
	s := e.Code + ": " + e.Message
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the cause, which is logged and never sent.
func (e *Error) Unwrap() error { return e.cause }

// Because sets the cause, for the log.
func (e *Error) Because(err error) *Error { e.cause = err; return e }

// HTTPStatus is the status to answer with.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	if c, ok := codes[e.Code]; ok {
		return c.Status
	}
	return http.StatusInternalServerError
}

// body is the wire form of an error.
type body struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Target  string  `json:"target,omitempty"`
	Details []*body `json:"details,omitempty"`
}

func (e *Error) wire() *body {
	b := &body{Code: e.Code, Message: e.Message, Target: e.Target}
	for _, d := range e.Details {
		b.Details = append(b.Details, d.wire())
	}
	return b
}

// MarshalJSON writes ARM's {code, message, target, details}.
func (e *Error) MarshalJSON() ([]byte, error) { return json.Marshal(e.wire()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *Error) UnmarshalJSON(data []byte) error {
	var b struct {
		Code, Message, Target string
		Details               []*Error
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return err
	}
	*e = Error{Code: b.Code, Message: b.Message, Target: b.Target, Details: b.Details}
	return nil
}

// New makes an error with one of Codes.
func New(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Field is a finding about one field of a request.
func Field(target, format string, args ...any) *Error {
	return &Error{Code: CodeInvalidParameter, Target: target, Message: target + ": " + fmt.Sprintf(format, args...)}
}

// Moved is the error with a field's path as it stands in another document: targets and
// messages that begin with from begin with to.
func (e *Error) Moved(from, to string) *Error {
	m := *e
	m.Message = strings.ReplaceAll(e.Message, from, to)
	if rest, ok := strings.CutPrefix(e.Target, from); ok {
		m.Target = to + rest
	}
	m.Details = nil
	for _, d := range e.Details {
		m.Details = append(m.Details, d.Moved(from, to))
	}
	return &m
}

// Join makes one error of all findings, nil of none: the finding itself when there is one, and
// a summary with all of them in Details (and in its text, because most clients show
// nothing else) when there are several.
func Join(code string, findings []*Error) error {
	switch len(findings) {
	case 0:
		return nil
	case 1:
		f := *findings[0]
		f.Code = code
		f.Status = 0
		f.Details = findings
		return &f
	}
	msg := fmt.Sprintf("The request has %d problems.", len(findings))
	for i, f := range findings {
		msg += fmt.Sprintf(" (%d) %s", i+1, f.Message)
	}
	return &Error{Code: code, Message: msg, Target: findings[0].Target, Details: findings}
}

// NotFound is ARM's answer for a resource that is not there.
func NotFound(typ, name, group string) *Error {
	if group == "" {
		return New(CodeResourceNotFound, "The Resource '%s/%s' was not found.", typ, name)
	}
	return New(CodeResourceNotFound, "The Resource '%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", typ, name, group)
}

// Of returns err as an *Error: itself when it is one, else a fixed internal error that carries err as
// its cause.
func Of(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return New(CodeInternalServerError, "Berth met an error that is not your request's fault. Try again; if it persists, look up the request ID in Berth's log.").Because(err)
}

// Write answers a request with an error, in ARM's envelope.
func Write(w http.ResponseWriter, err error) {
	e := Of(err)
	h := w.Header()
	for k, v := range e.Header {
		h[k] = v
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("x-ms-error-code", e.Code)
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(e.HTTPStatus())
	_ = json.NewEncoder(w).Encode(map[string]*Error{"error": e})
}
