package cluster

import "errors"

// ErrNotFound says that no such cluster exists.
var ErrNotFound = errors.New("cluster not found")

// Kind tells the reconciler what to do with a provider's error.
type Kind int

const (
	// KindTerminal means that trying again cannot help.
	KindTerminal Kind = iota + 1
	// KindUser means that the spec asks for something that cannot be; the message says what to change.
	KindUser
	// KindUnsupported means that this provider or this machine lacks something; the message names it.
	KindUnsupported
)

// Error is a provider's error that must not be retried.
type Error struct {
	Kind    Kind
	Code    string // CamelCase, shown as the ARM error code, e.g. KubernetesVersionNotSupported
	Message string // what happened, which rule, what to do next; safe to show to users
	Err     error  // cause, for the log only
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
