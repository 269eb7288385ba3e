// Berth is an open, self-hosted control plane for Azure ML's Kubernetes compute.
package main

import (
	"context"
	"os"

	"github.com/berthdev/berth/internal/cli"
	"github.com/berthdev/berth/internal/cli/cmd"
)

func main() {
	os.Exit(cli.Main(context.Background(), cmd.System(), os.Args[1:]))
}
