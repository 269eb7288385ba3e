package tracing

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// FrontEndEndpoint is a variable with the collector's address for front ends, where they need another than Berth.
const FrontEndEndpoint = "BERTH_FRONTEND_OTLP_ENDPOINT"

// Elsewhere is this process's settings for processes on other machines: OTEL_* variables, of which Files have
// content where the variable names a file. Both may hold secrets.
type Elsewhere struct {
	Env   map[string]string
	Files map[string][]byte
}

// ErrLoopback says that other machines cannot reach the collector.
var ErrLoopback = errors.New("the collector's address is a loopback address, which only this machine reaches; set " + FrontEndEndpoint + " to one that pods reach, and front ends export traces, too")

var otelVariable = regexp.MustCompile(`^OTEL_[A-Z0-9_]+$`)

// ForFrontEnds are the settings for front ends in clusters, nil when nothing is exported. Errors: ErrLoopback; else
// it names the variable that cannot be used.
func ForFrontEnds() (*Elsewhere, error) {
	s, err := read()
	other := os.Getenv(FrontEndEndpoint)
	if err != nil {
		return nil, err
	}
	if s == nil && other != "" {
		return nil, errors.New(FrontEndEndpoint + " is another address of a collector, and there is none: set OTEL_EXPORTER_OTLP_ENDPOINT, too")
	}
	if s == nil {
		return nil, nil
	}
	e := &Elsewhere{Env: map[string]string{}, Files: map[string][]byte{}}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case !otelVariable.MatchString(name) || name == "OTEL_SERVICE_NAME" || value == "":
		case strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && (strings.HasSuffix(name, "CERTIFICATE") || strings.HasSuffix(name, "CLIENT_KEY")):
			if e.Files[name], err = os.ReadFile(value); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		default:
			e.Env[name] = value
		}
	}
	where := s.url
	if other != "" {
		where = other
		delete(e.Env, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
		e.Env["OTEL_EXPORTER_OTLP_ENDPOINT"] = other
	}
	u, err := url.Parse(where)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New(FrontEndEndpoint + " is not a URL of the form http://host:4318")
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil, ErrLoopback
	}
	return e, nil
}
