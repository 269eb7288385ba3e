package image

// ServerCommand starts azureml-inference-server-http in a model's container; script is the entry script's
// path there. The package's comment says what else the container needs.
func ServerCommand(script string) []string {
	return []string{"python3", "-m", "azureml_inference_server_http", "--entry_script", script}
}
