package pki

import (
	"fmt"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/berthdev/berth/internal/cluster"
)

// UserGroup is the group of clusterUser credentials. A ClusterRoleBinding gives it its
// rights, so that they can be taken away; clusterAdmin's system:masters cannot.
const UserGroup = "berth:cluster-users"

// Kubeconfig writes a kubeconfig file for one cluster, one user and one context.
func Kubeconfig(name, user, endpoint string, caCert []byte, client Pair) ([]byte, error) {
	config := api.NewConfig()
	config.Clusters[name] = &api.Cluster{Server: endpoint, CertificateAuthorityData: caCert}
	config.AuthInfos[user] = &api.AuthInfo{ClientCertificateData: client.Cert, ClientKeyData: client.Key}
	config.Contexts[name] = &api.Context{Cluster: name, AuthInfo: user}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("write the kubeconfig of %s: %w", user, err)
	}
	return data, nil
}

// Credentials issues a kubeconfig for people: context and user are named as AKS names them.
func (a *Authority) Credentials(name, endpoint string, role cluster.Role, now time.Time) (cluster.Kubeconfig, error) {
	expires := now.Add(CredentialLifetime).UTC().Truncate(time.Second)
	request := Request{CommonName: string(role), NotAfter: expires}
	context := name
	switch role {
	case cluster.RoleAdmin:
		request.Organizations = []string{"system:masters"}
		context = name + "-admin"
	case cluster.RoleUser:
		request.Organizations = []string{UserGroup}
	default:
		return cluster.Kubeconfig{}, fmt.Errorf("there is no role %q: ask for %s or %s", role, cluster.RoleAdmin, cluster.RoleUser)
	}
	pair, err := a.Issue(request, now)
	if err != nil {
		return cluster.Kubeconfig{}, err
	}
	data, err := Kubeconfig(context, string(role)+"_"+name, endpoint, a.Cert, pair)
	if err != nil {
		return cluster.Kubeconfig{}, err
	}
	return cluster.Kubeconfig{Data: data, Expires: expires}, nil
}
