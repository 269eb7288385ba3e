package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// traefikVersion is the newest that Go's module proxy hands out with everything it imports.
const traefikVersion = "v3.6.12"

// buildTraefik builds Traefik in its own module, with exactly the dependencies that it was released with. Berth's
// modules know nothing of them.
func buildTraefik(ctx context.Context, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	fmt.Fprintln(os.Stderr, "building Traefik "+traefikVersion+", once; it takes minutes")
	load := exec.CommandContext(ctx, "go", "mod", "download", "-json", "github.com/traefik/traefik/v3@"+traefikVersion)
	load.Dir = os.TempDir() // outside of every module
	out, err := load.Output()
	if err != nil {
		return fmt.Errorf("downloading Traefik: %w: %s", err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-C", module.Dir, "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", to, "./cmd/traefik")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building Traefik: %w: %s", err, out)
	}
	return nil
}

func nginxVersion(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, "nginx", "-v").CombinedOutput()
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "/")
	return version
}

const (
	nginxAddr   = "127.0.0.1:8001"
	traefikAddr = "127.0.0.1:8002"
)

// nginxConfig is a plain reverse proxy: connections to the pod are kept, bodies go through as they come, no log.
const nginxConfig = `
daemon off;
user root;
worker_processes %[4]d;
pid %[1]s/nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s/nginx-body;
	proxy_temp_path %[1]s/nginx-proxy;
	fastcgi_temp_path %[1]s/nginx-fastcgi;
	uwsgi_temp_path %[1]s/nginx-uwsgi;
	scgi_temp_path %[1]s/nginx-scgi;
	keepalive_requests 1000000;
	client_max_body_size 100m;
	upstream pod { server %[3]s; keepalive 1000; keepalive_requests 1000000; }
	server {
		listen %[2]s;
		location / {
			proxy_pass http://pod;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_request_buffering off;
			proxy_buffering off;
		}
	}
}
`

const traefikConfig = `
http:
  routers:
    pod: {rule: "PathPrefix(` + "`/`" + `)", service: pod}
  services:
    pod: {loadBalancer: {servers: [{url: "http://%s"}], serversTransport: pods}}
  serversTransports:
    pods: {maxIdleConnsPerHost: 1000}
`

func startPeers(ctx context.Context, procs *processes, traefik, pod string) (nginx, tr *process, err error) {
	conf := filepath.Join(work, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, work, nginxAddr, pod, 1+strings.Count(procs.measured, ",")), 0o600); err != nil {
		return nil, nil, err
	}
	if nginx, err = procs.apart("nginx", nil, "nginx", "-c", conf, "-e", "stderr"); err != nil {
		return nil, nil, err
	}
	file := filepath.Join(work, "pod.yaml") // not traefik.yaml, which it would take for its own settings
	if err := os.WriteFile(file, fmt.Appendf(nil, traefikConfig, pod), 0o600); err != nil {
		return nil, nil, err
	}
	if tr, err = procs.apart("traefik", nil, traefik, "--entrypoints.web.address="+traefikAddr, "--providers.file.filename="+file,
		"--global.checknewversion=false", "--global.sendanonymoususage=false", "--log.level=ERROR"); err != nil {
		return nil, nil, err
	}
	for addr, p := range map[string]*process{nginxAddr: nginx, traefikAddr: tr} {
		if err := until(ctx, p.name, listens(addr)); err != nil {
			return nil, nil, fmt.Errorf("%w: %s", err, p.log())
		}
	}
	return nginx, tr, nil
}
