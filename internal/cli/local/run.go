package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/edge"
	"github.com/berthdev/berth/internal/edge/clientenv"
)

// NewEnv is the command env.
func NewEnv(e *cmd.Env) *cobra.Command {
	var shell string
	c := &cobra.Command{
		Use:   "env",
		Short: "Print what a shell has to set, so that unmodified clients reach this Berth",
		Long: `Print what a shell has to set, so that unmodified clients reach this Berth: the proxy that
answers for Azure's host names, and the certificates to trust. Other hosts are reached as before.`,
		Example: "  eval \"$(berth env)\"\n  berth env --shell fish | source\n  berth env --shell powershell | Out-String | Invoke-Expression",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if !slices.Contains(clientenv.Shells(), shell) {
				return &cmd.UsageError{Err: fmt.Errorf("--shell: %q is not one of %s", shell, strings.Join(clientenv.Shells(), ", "))}
			}
			vars, _, err := clientVars(e)
			if err != nil {
				return err
			}
			text, err := clientenv.Render(shell, vars)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(e.Out, text)
			return err
		},
	}
	c.Flags().StringVar(&shell, "shell", "sh", strings.Join(clientenv.Shells(), ", "))
	_ = c.RegisterFlagCompletionFunc("shell", cobra.FixedCompletions(clientenv.Shells(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func clientVars(e *cmd.Env) ([]clientenv.Var, *cmd.State, error) {
	client, s, err := e.Client() // for its account of what is missing
	if err != nil {
		return nil, nil, err
	}
	client.Close()
	return clientenv.Vars(clientenv.Settings{
		Host: strings.TrimPrefix(s.ProxyURL, "http://"), CA: s.CAFile, Bundle: s.BundleFile, Patterns: edge.AzurePatterns(), Getenv: e.Getenv,
	}), s, nil
}

// NewRun is the command run.
func NewRun(e *cmd.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "run -- COMMAND [ARGUMENT…]",
		Short: "Run one command with everything set, signed in",
		Long: `Run one command with everything set so that it reaches this Berth, signed in as the first
service principal. az gets a configuration folder of its own, so ~/.azure is left alone.
The exit code is the command's.`,
		Example: "  berth run -- az group list -o table\n  berth run -- python train.py",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("there is no command to run. Give it after two dashes: berth run -- az group list")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return run(e, args)
		},
	}
}

func run(e *cmd.Env, args []string) error {
	vars, _, err := clientVars(e)
	if err != nil {
		return err
	}
	home, err := e.HomeDir()
	if err != nil {
		return err
	}
	c, err := home.ReadCredentials()
	if err != nil {
		return fmt.Errorf("reading the credentials: %w", err)
	}
	azure := filepath.Join(string(home), "azure")
	if err := signInAz(azure, c); err != nil {
		return fmt.Errorf("preparing az's configuration: %w", err)
	}
	vars = append(vars, clientenv.SignIn(clientenv.Principal{Subscription: c.SubscriptionID, Tenant: c.TenantID, Client: c.ClientID, Secret: c.ClientSecret})...)
	vars = append(vars,
		clientenv.Var{Name: "AZURE_CONFIG_DIR", Value: azure}, clientenv.Var{Name: "AZURE_CORE_COLLECT_TELEMETRY", Value: "false"},
		clientenv.Var{Name: "BERTH_HOME", Value: string(home)},
	)
	path, err := exec.LookPath(args[0])
	if err != nil {
		fmt.Fprintf(e.Err, "ERROR: there is no command %q: %v\n", args[0], err)
		return &cmd.ExitError{Code: 127} // as shells have it
	}
	child := exec.Command(path, args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = e.In, e.Out, e.Err
	child.Env = overlay(e.Environ, vars)
	return wait(child)
}

// overlay sets variables in an environment; a variable that is there already is replaced.
func overlay(environ []string, vars []clientenv.Var) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(vars, func(v clientenv.Var) bool { return v.Name == name })
	})
	for _, v := range vars {
		out = append(out, v.Name+"="+v.Value)
	}
	return out
}

// wait runs a command, hands signals on to it, and ends as it ends.
func wait(child *exec.Cmd) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = child.Process.Signal(s) // it may have ended just now
		case err := <-done:
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				return err
			}
			code := exit.ExitCode()
			if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				code = 128 + int(status.Signal()) // as shells have it
			}
			return &cmd.ExitError{Code: code}
		}
	}
}

// signInAz writes what az keeps of a service principal that has signed in, as az 2.x reads
// it, so that az need not be called for it. What az itself changed there since (its defaults,
// its caches) stays.
func signInAz(dir string, c app.Credentials) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	type object = map[string]any
	entries := []object{{"client_id": c.ClientID, "tenant": c.TenantID, "client_secret": c.ClientSecret}}
	profile := object{
		"installationId": uuid.NewSHA1(uuid.NameSpaceURL, []byte(c.ClientID)).String(),
		"subscriptions": []object{{
			"id": c.SubscriptionID, "name": "Berth", "state": "Enabled", "user": object{"name": c.ClientID, "type": "servicePrincipal"}, "isDefault": true,
			"tenantId": c.TenantID, "homeTenantId": c.TenantID, "environmentName": "AzureCloud", "managedByTenants": []object{},
		}},
	}
	const config = "[core]\ncollect_telemetry = no\nencrypt_token_cache = false\nsurvey_message = no\nlogin_experience_v2 = off\n[logging]\nenable_log_file = no\n"
	for name, write := range map[string]func(string) error{
		"service_principal_entries.json": func(p string) error { return writePrivate(p, entries) },
		"azureProfile.json":              func(p string) error { return keepExisting(p, c.SubscriptionID, profile) },
		"config": func(p string) error {
			if _, err := os.Stat(p); err == nil {
				return nil
			}
			return os.WriteFile(p, []byte(config), 0o600)
		},
	} {
		if err := write(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// keepExisting leaves a profile alone that knows the subscription.
func keepExisting(path, subscription string, v any) error {
	if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), subscription) {
		return nil
	}
	return writePrivate(path, v)
}

func writePrivate(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
