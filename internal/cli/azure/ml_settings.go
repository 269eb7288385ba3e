package azure

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/cli/cmd"
)

// serviceSettings are what a web service is told, each as a flag, as a field of a deployment
// configuration file, and as a field of the request.
var serviceSettings = []struct{ flag, alias, path, kind, usage string }{
	{"cpu-cores", "cc", "containerResourceRequirements/cpu", kindNumber, "CPU cores of each replica (default: 0.1)"},
	{"cpu-cores-limit", "ccl", "containerResourceRequirements/cpuLimit", kindNumber, "CPU cores that a replica may use at most"},
	{"memory-gb", "gb", "containerResourceRequirements/memoryInGB", kindNumber, "memory of each replica in GB (default: 0.5)"},
	{"memory-gb-limit", "gbl", "containerResourceRequirements/memoryInGBLimit", kindNumber, "memory that a replica may use at most, in GB"},
	{"gpu-cores", "gc", "containerResourceRequirements/gpu", kindCount, "GPUs of each replica"},
	{"num-replicas", "nr", "numReplicas", kindCount, "a fixed number of replicas; without it the autoscaler chooses"},
	{"autoscale-enabled", "as", "autoScaler/autoscaleEnabled", kindTruth, "whether the number of replicas follows the load"},
	{"autoscale-min-replicas", "mi", "autoScaler/minReplicas", kindCount, "the fewest replicas (default: 1)"},
	{"autoscale-max-replicas", "ma", "autoScaler/maxReplicas", kindCount, "the most replicas (default: 10)"},
	{"autoscale-refresh-seconds", "ar", "autoScaler/refreshPeriodInSeconds", kindCount, "seconds between two decisions of the autoscaler (default: 1)"},
	{"autoscale-target-utilization", "at", "autoScaler/targetUtilization", kindCount, "how busy the autoscaler keeps the replicas, in percent (default: 70)"},
	{"auth-enabled", "ae", "authEnabled", kindTruth, "whether callers need a key (default: true)"},
	{"token-auth-enabled", "", "aadAuthEnabled", kindTruth, "whether callers need a token; excludes keys"},
	{"scoring-timeout-ms", "tm", "scoringTimeoutMs", kindCount, "milliseconds that an answer may take (default: 60000)"},
	{"replica-max-concurrent-requests", "rm", "maxConcurrentRequestsPerContainer", kindCount, "requests that a replica gets at a time (default: 1)"},
	{"max-request-wait-time", "mr", "maxQueueWaitMs", kindCount, "milliseconds that a request waits for a free replica, then 503 (default: 500)"},
	{"period-seconds", "ps", "livenessProbeRequirements/periodSeconds", kindCount, "seconds between two liveness probes (default: 10)"},
	{"initial-delay-seconds", "id", "livenessProbeRequirements/initialDelaySeconds", kindCount, "seconds until the first liveness probe (default: 310)"},
	{"timeout-seconds", "ts", "livenessProbeRequirements/timeoutSeconds", kindCount, "seconds that a liveness probe may take (default: 2)"},
	{"success-threshold", "st", "livenessProbeRequirements/successThreshold", kindCount, "liveness probes that must succeed after one failed (default: 1)"},
	{"failure-threshold", "ft", "livenessProbeRequirements/failureThreshold", kindCount, "liveness probes that may fail before a replica restarts (default: 3)"},
	{"enable-app-insights", "ai", "appInsightsEnabled", kindTruth, "whether requests are reported to Application Insights"},
	{"collect-model-data", "md", "dataCollection/storageEnabled", kindTruth, "whether requests are kept; Berth refuses true"},
	{"namespace", "", "namespace", kindText, "Kubernetes namespace; Berth has one for each workspace"},
}

// createSettings are those that cannot change later.
var createSettings = []struct{ flag, alias, path, kind, usage string }{
	{"primary-key", "kp", "keys/primaryKey", kindText, "the primary key (default: Berth makes one)"},
	{"secondary-key", "ks", "keys/secondaryKey", kindText, "the secondary key (default: Berth makes one)"},
	{"compute-target", "ct", "computeName", kindText, "name of the compute to deploy to"},
}

// renamed are the fields of a deployment configuration file that the request calls otherwise.
var renamed = map[string]string{"tokenAuthEnabled": "aadAuthEnabled", "gpuCores": "containerResourceRequirements/gpu", "computeTargetName": "computeName"}

// settings are the settings that the user gave, by flags and in a file.
type settings struct {
	flags map[string]*setting // by path
	file  string
}

// declare adds the flags, and their short names to short.
func (s *settings) declare(c *cobra.Command, creating bool, short map[string]string) {
	s.flags = map[string]*setting{}
	all := serviceSettings
	if creating {
		all = slices.Concat(serviceSettings, createSettings)
	}
	for _, d := range all {
		v := &setting{kind: d.kind}
		s.flags[d.path] = v
		c.Flags().Var(v, d.flag, also(d.usage, d.alias))
		if d.alias != "" {
			short[d.alias] = d.flag
		}
	}
	c.Flags().StringVar(&s.file, "deploy-config-file", "", also("JSON or YAML file with these settings, as the v1 extension has it; flags go before it", "dc"))
	short["dc"] = "deploy-config-file"
}

// given are the values by their paths in the request; flags go before the file.
func (s *settings) given() (map[string]any, error) {
	out := map[string]any{}
	if s.file != "" {
		doc, err := readDocument("deploy-config-file", s.file)
		if err != nil {
			return nil, err
		}
		if err := s.read(out, "", doc); err != nil {
			return nil, &cmd.UsageError{Err: fmt.Errorf("--deploy-config-file: %s: %w", s.file, err)}
		}
	}
	for path, v := range s.flags {
		if v.given != nil {
			out[path] = v.given
		}
	}
	return out, nil
}

// read finds the settings in a file's document. What Berth does not know is an error, so that
// nobody relies on what is not there.
func (s *settings) read(to map[string]any, at string, doc map[string]any) error {
	for _, k := range slices.Sorted(maps.Keys(doc)) {
		path, v := at+k, doc[k]
		if name, ok := renamed[path]; ok {
			path = name
		}
		inner, isObject := v.(map[string]any)
		switch {
		case path == "computeType":
			if err := checkComputeType(v); err != nil {
				return err
			}
		case v == nil:
		case isObject && s.has(path+"/"):
			if err := s.read(to, path+"/", inner); err != nil {
				return err
			}
		case s.flags[path] != nil:
			to[path] = v
		default:
			return fmt.Errorf("there is no setting %s. There are: %s", strings.ReplaceAll(path, "/", "."), strings.ReplaceAll(strings.Join(slices.Sorted(maps.Keys(s.flags)), ", "), "/", "."))
		}
	}
	return nil
}

func (s *settings) has(prefix string) bool {
	for path := range s.flags {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

func checkComputeType(given any) error {
	switch kind := strings.ToUpper(fmt.Sprint(given)); kind {
	case "AKS":
		return nil
	case "AKSENDPOINT":
		return errors.New("the compute type AKSENDPOINT, whose versions share the traffic, is deployed with azureml-core (AksEndpoint); this command deploys AKS")
	default:
		return fmt.Errorf("the compute type %v is not AKS: Berth deploys to Kubernetes clusters", given)
	}
}

// put sets a field of a request, by its path.
func put(body map[string]any, path string, value any) {
	keys := strings.Split(path, "/")
	for _, k := range keys[:len(keys)-1] {
		inner, ok := body[k].(map[string]any)
		if !ok {
			inner = map[string]any{}
			body[k] = inner
		}
		body = inner
	}
	body[keys[len(keys)-1]] = value
}
