package tracing

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// settings are what the environment says of the collector.
type settings struct {
	url     string
	header  http.Header
	timeout time.Duration // of one attempt
	gzip    bool
	tls     *tls.Config // nil for what the machine trusts
}

// setting is a variable of the exporter, of which there is one for traces alone, which counts, and one for all
// that is exported.
func setting(name string) (variable, value string) {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"} {
		if v := strings.TrimSpace(os.Getenv(prefix + name)); v != "" {
			return prefix + name, v
		}
	}
	return "", ""
}

// read returns nil when the environment names no collector. Errors name the variable and its rule, and quote no value
// that may hold a secret.
func read() (*settings, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	switch v := os.Getenv("OTEL_TRACES_EXPORTER"); v {
	case "", "otlp":
	case "none":
		return nil, nil
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q; it is otlp or none", v)
	}
	name, endpoint := setting("ENDPOINT")
	if endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%s is not a URL of the form http://host:4318", name)
	}
	if !strings.Contains(name, "TRACES") {
		u = u.JoinPath("v1/traces")
	}
	s := &settings{url: u.String(), header: http.Header{}, timeout: 10 * time.Second}
	for _, part := range []func() error{s.wire, s.headers, s.certificates, sampler} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *settings) wire() error {
	if name, v := setting("PROTOCOL"); v != "" && v != "http/protobuf" {
		return fmt.Errorf("%s is %q; Berth speaks http/protobuf alone, which collectors take on port 4318", name, v)
	}
	switch name, v := setting("COMPRESSION"); v {
	case "", "none":
	case "gzip":
		s.gzip = true
	default:
		return fmt.Errorf("%s is %q; it is gzip or none", name, v)
	}
	if name, v := setting("TIMEOUT"); v != "" {
		ms, err := strconv.Atoi(v)
		if err != nil || ms <= 0 {
			return fmt.Errorf("%s is %q; it is a number of milliseconds", name, v)
		}
		s.timeout = time.Duration(ms) * time.Millisecond
	}
	return nil
}

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func (s *settings) headers() error {
	name, v := setting("HEADERS")
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		key, raw, ok := strings.Cut(part, "=")
		key = strings.TrimSpace(key)
		value, err := url.PathUnescape(strings.TrimSpace(raw))
		if !ok || !headerName.MatchString(key) || err != nil || strings.ContainsAny(value, "\r\n\x00") {
			return fmt.Errorf("%s is not a list of name=value, separated by commas, with special characters of a value written as in URLs (%%20 for a space)", name)
		}
		s.header.Set(key, value)
	}
	return nil
}

func (s *settings) certificates() error {
	if name, file := setting("CERTIFICATE"); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
		if !s.tls.RootCAs.AppendCertsFromPEM(data) {
			return fmt.Errorf("%s: %s has no certificate in PEM", name, file)
		}
	}
	certName, cert := setting("CLIENT_CERTIFICATE")
	keyName, key := setting("CLIENT_KEY")
	if cert == "" && key == "" {
		return nil
	}
	if cert == "" || key == "" {
		return fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY go together; only %s is set", certName+keyName)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", certName, keyName, err)
	}
	if s.tls == nil {
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	s.tls.Certificates = []tls.Certificate{pair}
	return nil
}

// sampler checks what the library reads by itself, because it would go on with its default.
func sampler() error {
	const name = "OTEL_TRACES_SAMPLER"
	switch v := strings.ToLower(strings.TrimSpace(os.Getenv(name))); v {
	case "always_on", "always_off", "parentbased_always_on", "parentbased_always_off":
		return nil
	case "":
		return os.Unsetenv(name) // an empty one means the same as none, but not to the library
	case "traceidratio", "parentbased_traceidratio":
		arg, set := os.LookupEnv(name + "_ARG")
		if share, err := strconv.ParseFloat(strings.TrimSpace(arg), 64); set && (err != nil || !(share >= 0 && share <= 1)) {
			return fmt.Errorf("%s_ARG is %q; it is the share of traces to keep, from 0 to 1", name, arg)
		}
		return nil
	default:
		return fmt.Errorf("%s is %q; it is always_on, always_off or traceidratio, or one of them with parentbased_ before it", name, v)
	}
}
