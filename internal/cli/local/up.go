// Package local has the commands that run an installation on this machine: up, down,
// status, env and run.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/rp/machinelearning"
)

// readyFD is the file descriptor on which a detached Berth tells its parent that it is
// ready, or why not.
const readyEnv = "BERTH_READY_FD"

// notRoot is what is wrong with a local provider that does not run as root.
const notRoot = "This Berth does not run as root, which the local provider needs: it cannot make clusters. Start it with sudo, or with --provider fake."

type upOptions struct {
	env      *cmd.Env
	listen   string
	provider string
	region   string
	libexec  string
	faults   string
	blobs    string
	registry string
	logLevel string
	versions machinelearning.VersionRange
	room     time.Duration
	images   time.Duration
	detach   bool
}

// NewUp is the command up.
func NewUp(e *cmd.Env) *cobra.Command {
	o := &upOptions{env: e}
	c := &cobra.Command{
		Use:   "up",
		Short: "Start Berth on this machine",
		Long: `Start Berth on this machine.

Everything it keeps is in its home folder, so several can run side by side. The local
cluster provider runs real Kubernetes and needs root, because nodes are network
namespaces with their own containerd and cgroups; without root, use --provider fake,
which has no real nodes but behaves the same towards clients.

Files of models and environments are kept in the home folder too, unless --blobs names a
bucket: s3://bucket?region=eu-west-1 (other S3 storage: &endpoint=https://host&use_path_style=true),
gs://bucket, azblob://container or file:///folder; ?prefix=berth/ keeps them below a prefix in it.
Credentials are those that the cloud's own tools use: AWS_ACCESS_KEY_ID and so on,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY. The choice is
remembered; moving files from one bucket to another is up to you. Give an S3 bucket a
lifecycle rule that aborts incomplete multipart uploads.

Images are pushed to a registry in Berth itself, unless --registry names another one:
registry.example.com/team puts them below team/berth there, http://HOST means plain HTTP.
It must allow repositories of several parts, and Berth must be signed in, as the user it
runs as: docker login, podman login, crane auth login, or a credential helper; DOCKER_CONFIG
names another folder than ~/.docker. A new sign-in is found without a restart. Nodes of
local clusters, which have no way out of their network, fetch through Berth and never see
those credentials; Berth removes nothing from such a registry. The choice is remembered,
and --registry embedded goes back. Web services that run serve on with the images that they
have, where those are; the next update of each moves it. Base images that an environment
names come from registries on this machine itself (localhost) only where --registry names it.

With OTEL_EXPORTER_OTLP_ENDPOINT it exports OpenTelemetry traces, and so do the front ends of
clusters; docs/observability.md has the rest of the variables.`,
		Example: "  berth up --detach\n  berth up --provider fake --listen 127.0.0.1:8443",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return o.run(c.Context()) },
	}
	f := c.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "address to listen on; port 0 means the one it had last, or a free one")
	f.StringVar(&o.provider, "provider", "local", "cluster provider: local or fake")
	providers := []string{"local\treal Kubernetes on this machine; needs root", "fake\tno real nodes"}
	_ = c.RegisterFlagCompletionFunc("provider", cobra.FixedCompletions(providers, cobra.ShellCompDirectiveNoFileComp))
	f.StringVar(&o.region, "region", "westeurope", "Azure region this Berth names itself after")
	f.StringVar(&o.libexec, "libexec", "", "folder with the programs of the local provider (default: libexec beside the berth program)")
	f.StringVar(&o.faults, "faults", "", "what goes wrong in the fake provider, e.g. failEnsureAt=1+3,readyAfter=2s")
	f.StringVar(&o.blobs, "blobs", "", "URL of the bucket for files (default: the one it had last, or the folder blobs in the home)")
	f.StringVar(&o.registry, "registry", "", "registry for images, [http://]HOST[:PORT][/PREFIX] or embedded (default: the one it had last, or embedded)")
	f.TextVar(&o.versions, "kubernetes-versions", app.DefaultKubernetes, "Kubernetes versions of clusters that can be attached")
	f.DurationVar(&o.room, "schedule-wait", app.DefaultScheduleWait, "how long a deployment waits for room on the nodes before it fails")
	f.DurationVar(&o.images, "keep-images", app.DefaultKeepImages, "how long images that no web service needs stay after their last use; those of environments stay four times as long")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVarP(&o.detach, "detach", "d", false, "return when Berth is ready; its log goes to berth.log in the home folder")
	return c
}

func (o *upOptions) run(ctx context.Context) error {
	home, err := o.env.HomeDir()
	if err != nil {
		return err
	}
	if s, err := o.env.ReadState(); err == nil && alive(s.PID, s.Born) {
		return fmt.Errorf("berth is running already, as process %d at %s. Stop it with: berth down", s.PID, s.URL)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if o.provider != "local" && o.provider != "fake" {
		return &cmd.UsageError{Err: fmt.Errorf("--provider: %q is not one of local, fake", o.provider)}
	}
	if o.blobs != "" {
		if err := blob.ValidURL(o.blobs); err != nil {
			return &cmd.UsageError{Err: fmt.Errorf("--blobs: %w", err)}
		}
	}
	if o.images < app.MinKeepImages {
		return &cmd.UsageError{Err: fmt.Errorf("--keep-images: %v is too short: a deployment's images have to stay until they run. Give at least %v", o.images, app.MinKeepImages)}
	}
	if o.registry != "" {
		if err := app.ValidRegistry(o.registry); err != nil {
			return &cmd.UsageError{Err: fmt.Errorf("--registry: %w", err)}
		}
	}
	if o.provider == "local" && os.Geteuid() != 0 {
		o.env.Warnf(notRoot)
	}
	if o.detach {
		return o.detached(ctx, home)
	}
	return o.foreground(ctx, home)
}

// config is what app.Run gets.
func (o *upOptions) config(home app.Home, logTo io.Writer) (app.Config, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return app.Config{}, &cmd.UsageError{Err: fmt.Errorf("--log-level: %q is not one of debug, info, warn, error", o.logLevel)}
	}
	logger := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(logger)
	return app.Config{
		Home: home, Listen: o.listen, Provider: o.provider, Region: o.region, Libexec: libexec(o.libexec), Faults: o.faults, Blobs: o.blobs, Registry: o.registry, Logger: logger,
		Kubernetes: o.versions, ScheduleWait: o.room, KeepImages: o.images,
	}, nil
}

// libexec is the folder with the programs of the local provider.
func libexec(given string) string {
	if given != "" {
		return given
	}
	if exe, err := os.Executable(); err == nil {
		return filepath.Join(filepath.Dir(exe), "libexec")
	}
	return ""
}

func (o *upOptions) foreground(ctx context.Context, home app.Home) error {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	announce := func(i app.Info, err error) {
		if err == nil {
			o.welcome(i)
		}
	}
	if fd := o.env.Getenv(readyEnv); fd != "" {
		pipe := os.NewFile(3, "ready")
		announce = func(i app.Info, err error) { tell(pipe, i, err) }
	}
	cfg, err := o.config(home, o.env.Err)
	if err == nil {
		err = app.Run(ctx, cfg, func(i app.Info) {
			state := cmd.State{Info: i, PID: os.Getpid(), Root: os.Geteuid() == 0, Started: time.Now().UTC(), Born: born(os.Getpid())}
			if err := app.WriteJSON(cmd.StateFile(home), state); err != nil {
				cfg.Logger.Error("the state file could not be written; the CLI will not find this Berth", "error", err)
			}
			announce(i, nil)
		})
	}
	if err != nil {
		announce(app.Info{}, err)
	}
	return err
}

func (o *upOptions) welcome(i app.Info) {
	fmt.Fprintf(o.env.Err, `Berth is ready at %s

  Run a client with everything set:   berth run -- az group list
  Or set up your shell:               eval "$(berth env)"
  Stop it:                            berth down

`, i.URL)
}

// message is what a detached Berth tells its parent.
type message struct {
	Info  app.Info `json:"info"`
	Error string   `json:"error,omitempty"`
}

func tell(pipe *os.File, i app.Info, err error) {
	m := message{Info: i}
	if err != nil {
		m.Error = err.Error()
	}
	_ = json.NewEncoder(pipe).Encode(m) // a parent that went away needs no answer
	_ = pipe.Close()
}

// detached starts Berth as a process of its own session and waits until it is ready.
func (o *upOptions) detached(ctx context.Context, home app.Home) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(home), 0o700); err != nil {
		return fmt.Errorf("making the home folder: %w", err)
	}
	logPath := filepath.Join(string(home), "berth.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	versions, err := o.versions.MarshalText()
	if err != nil {
		return err
	}
	child := exec.Command(exe, "up", "--home", string(home), "--listen", o.listen, "--provider", o.provider, "--region", o.region,
		"--libexec", libexec(o.libexec), "--faults", o.faults, "--blobs", o.blobs, "--registry", o.registry, "--log-level", o.logLevel, "--kubernetes-versions", string(versions), "--schedule-wait", o.room.String(), "--keep-images", o.images.String())
	child.Env = append(withoutProxy(o.env.Environ), readyEnv+"=3")
	child.Stdout, child.Stderr = log, log
	child.ExtraFiles = []*os.File{write}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting Berth: %w", err), write.Close())
	}
	_ = write.Close() // only the child's end is left, so its death ends the wait below
	answers := make(chan message, 1)
	go func() {
		var m message
		if err := json.NewDecoder(read).Decode(&m); err != nil {
			m.Error = "it ended before it was ready; see " + logPath
		}
		answers <- m
	}()
	select {
	case m := <-answers:
		if m.Error != "" {
			_ = child.Wait() // it is on its way out; its exit code adds nothing to its message
			return errors.New("berth did not start: " + m.Error)
		}
		o.welcome(m.Info)
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), child.Process.Kill(), child.Wait())
	}
}

// withoutProxy keeps a Berth from using itself as its proxy.
func withoutProxy(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.EqualFold(name, "HTTPS_PROXY") && name != readyEnv {
			out = append(out, kv)
		}
	}
	return out
}
