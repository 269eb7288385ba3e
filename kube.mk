# What the local cluster provider runs: Kubernetes, containerd, etcd and the rest, built
# from the module proxy with the versions of kube/go.mod. Nothing is downloaded at run time.
# Include this file; then `make libexec` fills LIBEXEC.

LIBEXEC ?= bin/libexec

kube_out     = $(abspath $(LIBEXEC))
kube_build   = cd kube && CGO_ENABLED=$(1) go build -trimpath -buildvcs=false
kube_version = $(shell sed -n 's/^\tk8s.io\/kubernetes v//p' kube/go.mod)
kube_pkg     = k8s.io/component-base/version
kube_ldflags = -s -w -X $(kube_pkg).gitVersion=v$(kube_version) \
	-X $(kube_pkg).gitMajor=$(word 1,$(subst ., ,$(kube_version))) -X $(kube_pkg).gitMinor=$(word 2,$(subst ., ,$(kube_version)))

# runc needs C for its first steps in a container and libseccomp for Kubernetes' default
# system call filter; it is linked statically so that only this build needs the headers.
# kube-proxy runs nft, which is the one program that stays a Debian package.
KUBE_DEBIAN = gcc libc6-dev pkg-config libseccomp-dev nftables

.PHONY: libexec
libexec: kube-debian ## Build what local clusters run into LIBEXEC (bin/libexec); about 10 CPU minutes at first
	@mkdir -p $(kube_out)/cni $(kube_out)/images .build/images
	$(call kube_build,0) -ldflags "$(kube_ldflags)" -o $(kube_out)/ ./cmd/berth-kube k8s.io/kubernetes/cmd/kubectl
	$(call kube_build,0) -ldflags "-s -w" -o $(kube_out)/ \
		github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	$(call kube_build,0) -ldflags "-s -w" -o $(kube_out)/etcd go.etcd.io/etcd/server/v3
	$(call kube_build,0) -ldflags "-s -w" -o $(kube_out)/cni/ \
		github.com/containernetworking/plugins/plugins/main/bridge github.com/containernetworking/plugins/plugins/main/loopback \
		github.com/containernetworking/plugins/plugins/ipam/host-local github.com/containernetworking/plugins/plugins/meta/portmap
	$(call kube_build,1) -tags "seccomp netgo osusergo" -ldflags '-s -w -extldflags "-static"' -o $(kube_out)/ github.com/opencontainers/runc
	$(call kube_build,0) -ldflags "-s -w" -o $(abspath .build/images)/ ./cmd/coredns ./cmd/pause ./cmd/hello
	for image in coredns pause hello; do \
		(cd kube && go run -buildvcs=false ./cmd/imagetar --name berth.dev/$$image:1 \
			--binary $(abspath .build/images)/$$image --out $(kube_out)/images/$$image.tar) || exit 1; \
	done
	cd kube && go list -m -f '{{.Path}} {{.Version}}' k8s.io/kubernetes github.com/containerd/containerd/v2 \
		github.com/opencontainers/runc go.etcd.io/etcd/server/v3 github.com/containernetworking/plugins github.com/coredns/coredns > $(kube_out)/versions.txt

.PHONY: kube-debian
kube-debian:
	@missing=$$(for p in $(KUBE_DEBIAN); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "libexec: these are missing: $$missing. Install them (on Debian: sudo apt-get install $$missing), then run make again." >&2; exit 1; \
	fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing
