# What model images are made of: Berth's base images, one for each Python, made of Debian's
# packages because no container registry is needed that way (as a tar file, and unpacked, so that its
# Python can compile packages), and uv, which resolves and unpacks wheels.
# Include this file after kube.mk; then `make images` fills LIBEXEC.

# The Pythons, the Debian release that has each, and what that packs apart though it is of the standard library.
PYTHONS    = 3.9 3.11 3.13
suite_3.9  = bullseye
suite_3.11 = bookworm
suite_3.13 = trixie
more_3.9   = ,python3-distutils
more_3.11  = ,python3-distutils
UV_VERSION = 0.13.9

# Debian's certificate authorities: the package, and the name of the bundle made of them.
authorities = ca-certificates

# What a base has beside Python and the libraries that Python needs.
base_packages = libgomp1,libstdc++6,$(authorities),base-files,netbase,tzdata

bases = $(PYTHONS:%=$(kube_out)/base/python%.tar)

.PHONY: images bases mmdebstrap
images: $(kube_out)/uv mmdebstrap ## Make the base images of models, one for each of PYTHONS, and get uv
	$(MAKE) --no-print-directory -j $(words $(PYTHONS)) bases

bases: $(bases) # they wait for packages most of the time, so they are made side by side

mmdebstrap:
	@command -v mmdebstrap >/dev/null || { \
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
			echo "images: mmdebstrap is missing. Install it (on Debian: sudo apt-get install mmdebstrap), then run make again." >&2; exit 1; \
		fi; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap; }

# The standard library is compiled, because a container that cannot write would do it at each start.
$(bases): $(kube_out)/base/python%.tar: images.mk
	@mkdir -p $(@D)
	@echo "making the base image with Python $* of Debian $(suite_$*)"
	@SOURCE_DATE_EPOCH=1735689600 mmdebstrap --quiet --format=tar --mode=$(if $(filter 0,$(shell id -u)),root,unshare) --variant=extract \
		--include=python$*-minimal,libpython$*-stdlib,$(base_packages)$(more_$*) \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--extract-hook='ln -sf python$* "$$1/usr/bin/python3"; ln -sf python3 "$$1/usr/bin/python"; mkdir -p "$$1/var/azureml-app" "$$1/etc/ssl/certs"; \
			cat "$$1"/usr/share/$(authorities)/mozilla/*.crt > "$$1/etc/ssl/certs/$(authorities).crt"; \
			printf "root:x:0:0:root:/root:/bin/sh\ndockeruser:x:1000:1000::/tmp:/bin/sh\n" > "$$1/etc/passwd"; printf "root:x:0:\ndockeruser:x:1000:\n" > "$$1/etc/group"; \
			rm -rf "$$1"/var/lib/apt/* "$$1"/var/cache/* "$$1"/var/log/*; \
			PYTHONHOME="$$1/usr" PYTHONHASHSEED=0 "$$1/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$$1/lib/x86_64-linux-gnu:$$1/usr/lib/x86_64-linux-gnu" "$$1/usr/bin/python$*" \
				-m compileall -q -s "$$1" -p / --invalidation-mode unchecked-hash "$$1/usr/lib/python$*"' \
		$(suite_$*) $@.part || { \
			echo "images: the base with Python $* cannot be made of Debian $(suite_$*). If that release has left the mirrors, do without it: make PYTHONS='$(filter-out $*,$(PYTHONS))' …" >&2; exit 1; }
	@rm -rf $(basename $@) && mkdir $(basename $@) && tar -C $(basename $@) --no-same-owner --exclude='./dev/*' -xf $@.part
	mv $@.part $@

$(kube_out)/uv: images.mk
	@mkdir -p $(@D)
	rm -rf .build/uv && $(PYTHON3) -m venv .build/uv && .build/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	cp .build/uv/bin/uv $@
