# What model images are made of: Berth's base image, made of Debian's packages because no
# container registry is needed that way (as a tar file, and unpacked, so that its Python can compile
# packages), and uv, which resolves and unpacks wheels.
# Include this file after kube.mk; then `make images` fills LIBEXEC.

# The versions of the base's packages are Debian 12's own.
base_packages = python3.11-minimal,libpython3.11-stdlib,libgomp1,ca-certificates,base-files,libc6,libstdc++6,zlib1g,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libexpat1,libuuid1,netbase,tzdata
UV_VERSION    = 0.13.9

.PHONY: images
images: $(kube_out)/base/python3.11.tar $(kube_out)/uv ## Make the base image of models, and get uv

$(kube_out)/base/python3.11.tar: images.mk
	@command -v mmdebstrap >/dev/null || { \
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
			echo "images: mmdebstrap is missing. Install it (on Debian: sudo apt-get install mmdebstrap), then run make again." >&2; exit 1; \
		fi; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap; }
	@mkdir -p $(@D)
	SOURCE_DATE_EPOCH=1735689600 mmdebstrap --quiet --format=tar --mode=$(if $(filter 0,$(shell id -u)),root,unshare) --variant=extract --include=$(base_packages) \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--extract-hook='ln -sf python3.11 "$$1/usr/bin/python3"; ln -sf python3 "$$1/usr/bin/python"; mkdir -p "$$1/var/azureml-app" "$$1/etc/ssl/certs"; \
			cat "$$1"/usr/share/ca-certificates/mozilla/*.crt > "$$1/etc/ssl/certs/ca-certificates.crt"; \
			printf "root:x:0:0:root:/root:/bin/sh\ndockeruser:x:1000:1000::/tmp:/bin/sh\n" > "$$1/etc/passwd"; printf "root:x:0:\ndockeruser:x:1000:\n" > "$$1/etc/group"; \
			rm -rf "$$1"/var/lib/apt/* "$$1"/var/cache/* "$$1"/var/log/*' \
		bookworm $@.part
	rm -rf $(@D)/python3.11 && mkdir $(@D)/python3.11 && tar -C $(@D)/python3.11 --no-same-owner --exclude='./dev/*' -xf $@.part
	mv $@.part $@

$(kube_out)/uv: images.mk
	@mkdir -p $(@D)
	rm -rf .build/uv && $(PYTHON3) -m venv .build/uv && .build/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	cp .build/uv/bin/uv $@
