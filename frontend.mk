# The front end of web services. It is one static program, and Berth makes its image when a
# cluster is attached. Include this file after kube.mk; then `make frontend` fills LIBEXEC.

.PHONY: frontend
frontend: ## Build the front end of web services
	@mkdir -p $(kube_out)
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o $(kube_out)/azureml-fe ./cmd/azureml-fe
