// Package cmd is what the commands of the CLI share: streams, global options, the client
// of the installation at hand, errors with exit codes, and progress.
package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/output"
)

// Exit codes, az's where az has one.
const (
	CodeOK       = 0
	CodeError    = 1
	CodeUsage    = 2
	CodeNotFound = 3
)

// UsageError is an error in how a command was called.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// ExitError ends the program with a code and says nothing more.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// Env is what a command runs in.
type Env struct {
	In         io.Reader
	Out, Err   io.Writer
	OutTTY     bool
	ErrTTY     bool
	InTTY      bool
	Getenv     func(string) string
	Environ    []string
	Home       string // --home
	Format     string // --output
	Query      string // --query
	SubID      string // --subscription
	Verbose    bool
	OnlyErrors bool
}

// System is the environment of the process.
func System() *Env {
	tty := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	return &Env{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, InTTY: tty(os.Stdin), OutTTY: tty(os.Stdout), ErrTTY: tty(os.Stderr) && os.Getenv("TERM") != "dumb",
		Getenv: os.Getenv, Environ: os.Environ(),
	}
}

// Global adds the options that every command has.
func (e *Env) Global(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&e.Home, "home", "", "folder of the installation (default: $BERTH_HOME, else berth in the XDG data folder)")
	f.StringVarP(&e.Format, "output", "o", "json", "output format: "+strings.Join(output.Formats, ", "))
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.Formats, cobra.ShellCompDirectiveNoFileComp))
	f.StringVar(&e.Query, "query", "", "JMESPath query to apply to the result")
	f.StringVar(&e.SubID, "subscription", "", "ID of the subscription (default: the installation's)")
	f.BoolVar(&e.Verbose, "verbose", false, "say what is sent")
	f.BoolVar(&e.Verbose, "debug", false, "the same as --verbose")
	f.BoolVar(&e.OnlyErrors, "only-show-errors", false, "show no progress and no warnings")
}

// HomeDir is the installation's folder.
func (e *Env) HomeDir() (app.Home, error) {
	dir := e.Home
	if dir == "" {
		dir = e.Getenv("BERTH_HOME")
	}
	if dir == "" {
		data := e.Getenv("XDG_DATA_HOME")
		if data == "" {
			home := e.Getenv("HOME")
			if home == "" {
				return "", &UsageError{errors.New("there is neither BERTH_HOME, XDG_DATA_HOME nor HOME; say with --home where the installation is")}
			}
			data = filepath.Join(home, ".local", "share")
		}
		dir = filepath.Join(data, "berth")
	}
	abs, err := filepath.Abs(dir)
	return app.Home(abs), err
}

// State is what a running Berth leaves in its home folder for the CLI.
type State struct {
	app.Info
	PID     int       `json:"pid"`
	Root    bool      `json:"root"` // whether it runs as root
	Started time.Time `json:"started"`
	// Born is the kernel's start time of the process, in clock ticks since boot: with it a
	// process that got the same number later is told apart.
	Born string `json:"born"`
}

// StateFile is where the state is.
func StateFile(h app.Home) string { return filepath.Join(string(h), "berth.json") }

// ReadState reads what the running Berth left. Errors: fs.ErrNotExist when none ran.
func (e *Env) ReadState() (*State, error) {
	h, err := e.HomeDir()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(StateFile(h))
	if err != nil {
		return nil, err
	}
	s := &State{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w. Remove it and start Berth again", StateFile(h), err)
	}
	return s, nil
}

// Client connects to the installation.
func (e *Env) Client() (*armclient.Client, *State, error) {
	s, err := e.ReadState()
	if errors.Is(err, fs.ErrNotExist) {
		h, _ := e.HomeDir()
		return nil, nil, fmt.Errorf("no Berth has run with the home folder %s. Start one with: berth up --detach", h)
	}
	if err != nil {
		return nil, nil, err
	}
	h, err := e.HomeDir()
	if err != nil {
		return nil, nil, err
	}
	c, err := h.ReadCredentials()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the credentials: %w", err)
	}
	if err := answers(s.URL); err != nil {
		return nil, nil, err
	}
	client, err := armclient.New(armclient.Config{
		URL: s.URL, CAFile: s.CAFile, Proxy: s.ProxyURL, Tenant: c.TenantID, ClientID: c.ClientID, ClientSecret: c.ClientSecret, Version: app.Version, Log: e.Logf,
	})
	return client, s, err
}

// answers reports an installation that is not there at once and in a person's words; the
// clients behind armclient try for seconds, and then speak of authentication.
func answers(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", u.Host, 2*time.Second)
	if err != nil {
		return fmt.Errorf("no Berth answers at %s: %w. Start it with: berth up --detach", address, err)
	}
	return conn.Close()
}

// Logf says what is going on, with --verbose.
func (e *Env) Logf(format string, args ...any) {
	if e.Verbose {
		fmt.Fprintf(e.Err, format+"\n", args...)
	}
}

// Warnf warns.
func (e *Env) Warnf(format string, args ...any) {
	if !e.OnlyErrors {
		fmt.Fprintf(e.Err, "WARNING: "+format+"\n", args...)
	}
}

// Printer prints the command's result; table shapes it for -o table.
func (e *Env) Printer(table string) *output.Printer {
	return &output.Printer{Out: e.Out, Format: e.Format, Query: e.Query, Color: e.OutTTY, Table: table}
}

// Confirm asks before something is deleted. Without a terminal to ask at, --yes is needed.
func (e *Env) Confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !e.InTTY {
		return &UsageError{fmt.Errorf("%s There is no terminal to answer at; repeat the command with --yes", question)}
	}
	fmt.Fprintf(e.Err, "%s (y/n): ", question)
	var answer string
	_, _ = fmt.Fscanln(e.In, &answer)
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return errors.New("operation cancelled")
	}
	return nil
}

// Report writes an error for a person and returns the exit code.
func (e *Env) Report(err error) int {
	var exit *ExitError
	var usage *UsageError
	var arm *armclient.Error
	switch {
	case err == nil:
		return CodeOK
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &usage):
		fmt.Fprintf(e.Err, "ERROR: %v\n", err)
		return CodeUsage
	case errors.As(err, &arm):
		fmt.Fprintf(e.Err, "ERROR: (%s) %s\n", arm.Code, arm.Message)
		fmt.Fprintf(e.Err, "Code: %s\n", arm.Code)
		if arm.Target != "" {
			fmt.Fprintf(e.Err, "Target: %s\n", arm.Target)
		}
		if arm.RequestID != "" {
			fmt.Fprintf(e.Err, "Request: %s\n", arm.RequestID)
		}
		if arm.Status == 404 {
			return CodeNotFound
		}
		return CodeError
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(e.Err, "Interrupted. What was begun goes on in Berth.")
		return CodeError
	}
	fmt.Fprintf(e.Err, "ERROR: %v\n", err)
	return CodeError
}
