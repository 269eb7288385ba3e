package gosdk

import (
	"context"
	"testing"

	armv5 "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v5"
	armv6 "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
)

// aks is armcontainerservice of one version.
type aks struct {
	module string
	etags  bool // the version's models have etags, and its options conditions

	create         func(ctx context.Context, group, name, body string, c condition) (*operation, error)
	get            func(ctx context.Context, group, name string) (any, error)
	list           func() listing
	listGroup      func(group string) listing
	tag            func(ctx context.Context, group, name, body string, c condition) (*operation, error)
	remove         func(ctx context.Context, group, name string, c condition) (*operation, error)
	adminConfig    func(ctx context.Context, group, name string) (any, error)
	userConfig     func(ctx context.Context, group, name string) (any, error)
	upgradeProfile func(ctx context.Context, group, name string) (any, error)

	createPool func(ctx context.Context, group, name, pool, body string, c condition) (*operation, error)
	getPool    func(ctx context.Context, group, name, pool string) (any, error)
	listPools  func(group, name string) listing
	removePool func(ctx context.Context, group, name, pool string, c condition) (*operation, error)
}

var aksVersions = map[string]func(*testing.T) aks{"v5": openAKSv5, "v6": openAKSv6}

func openAKSv5(t *testing.T) aks {
	f, err := armv5.NewClientFactory(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	clusters, pools := f.NewManagedClustersClient(), f.NewAgentPoolsClient()
	return aks{
		module: aksV5,
		create: func(ctx context.Context, group, name, body string, c condition) (*operation, error) {
			return begin(clusters.BeginCreateOrUpdate(ctx, group, name, model[armv5.ManagedCluster](t, body), &armv5.ManagedClustersClientBeginCreateOrUpdateOptions{ResumeToken: c.resume}))
		},
		get:       func(ctx context.Context, group, name string) (any, error) { return clusters.Get(ctx, group, name, nil) },
		list:      func() listing { return pages(clusters.NewListPager(nil)) },
		listGroup: func(group string) listing { return pages(clusters.NewListByResourceGroupPager(group, nil)) },
		tag: func(ctx context.Context, group, name, body string, c condition) (*operation, error) {
			return begin(clusters.BeginUpdateTags(ctx, group, name, model[armv5.TagsObject](t, body), &armv5.ManagedClustersClientBeginUpdateTagsOptions{ResumeToken: c.resume}))
		},
		remove: func(ctx context.Context, group, name string, c condition) (*operation, error) {
			return begin(clusters.BeginDelete(ctx, group, name, &armv5.ManagedClustersClientBeginDeleteOptions{ResumeToken: c.resume}))
		},
		adminConfig: func(ctx context.Context, group, name string) (any, error) {
			return clusters.ListClusterAdminCredentials(ctx, group, name, nil)
		},
		userConfig: func(ctx context.Context, group, name string) (any, error) {
			return clusters.ListClusterUserCredentials(ctx, group, name, nil)
		},
		upgradeProfile: func(ctx context.Context, group, name string) (any, error) {
			return clusters.GetUpgradeProfile(ctx, group, name, nil)
		},
		createPool: func(ctx context.Context, group, name, pool, body string, c condition) (*operation, error) {
			return begin(pools.BeginCreateOrUpdate(ctx, group, name, pool, model[armv5.AgentPool](t, body), &armv5.AgentPoolsClientBeginCreateOrUpdateOptions{ResumeToken: c.resume}))
		},
		getPool: func(ctx context.Context, group, name, pool string) (any, error) {
			return pools.Get(ctx, group, name, pool, nil)
		},
		listPools: func(group, name string) listing { return pages(pools.NewListPager(group, name, nil)) },
		removePool: func(ctx context.Context, group, name, pool string, c condition) (*operation, error) {
			return begin(pools.BeginDelete(ctx, group, name, pool, &armv5.AgentPoolsClientBeginDeleteOptions{ResumeToken: c.resume}))
		},
	}
}

func openAKSv6(t *testing.T) aks {
	f, err := armv6.NewClientFactory(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	clusters, pools := f.NewManagedClustersClient(), f.NewAgentPoolsClient()
	return aks{
		module: aksV6, etags: true,
		create: func(ctx context.Context, group, name, body string, c condition) (*operation, error) {
			return begin(clusters.BeginCreateOrUpdate(ctx, group, name, model[armv6.ManagedCluster](t, body),
				&armv6.ManagedClustersClientBeginCreateOrUpdateOptions{IfMatch: c.ifMatch, IfNoneMatch: c.ifNoneMatch, ResumeToken: c.resume}))
		},
		get:       func(ctx context.Context, group, name string) (any, error) { return clusters.Get(ctx, group, name, nil) },
		list:      func() listing { return pages(clusters.NewListPager(nil)) },
		listGroup: func(group string) listing { return pages(clusters.NewListByResourceGroupPager(group, nil)) },
		tag: func(ctx context.Context, group, name, body string, c condition) (*operation, error) {
			return begin(clusters.BeginUpdateTags(ctx, group, name, model[armv6.TagsObject](t, body), &armv6.ManagedClustersClientBeginUpdateTagsOptions{IfMatch: c.ifMatch, ResumeToken: c.resume}))
		},
		remove: func(ctx context.Context, group, name string, c condition) (*operation, error) {
			return begin(clusters.BeginDelete(ctx, group, name, &armv6.ManagedClustersClientBeginDeleteOptions{IfMatch: c.ifMatch, ResumeToken: c.resume}))
		},
		adminConfig: func(ctx context.Context, group, name string) (any, error) {
			return clusters.ListClusterAdminCredentials(ctx, group, name, nil)
		},
		userConfig: func(ctx context.Context, group, name string) (any, error) {
			return clusters.ListClusterUserCredentials(ctx, group, name, nil)
		},
		upgradeProfile: func(ctx context.Context, group, name string) (any, error) {
			return clusters.GetUpgradeProfile(ctx, group, name, nil)
		},
		createPool: func(ctx context.Context, group, name, pool, body string, c condition) (*operation, error) {
			return begin(pools.BeginCreateOrUpdate(ctx, group, name, pool, model[armv6.AgentPool](t, body),
				&armv6.AgentPoolsClientBeginCreateOrUpdateOptions{IfMatch: c.ifMatch, IfNoneMatch: c.ifNoneMatch, ResumeToken: c.resume}))
		},
		getPool: func(ctx context.Context, group, name, pool string) (any, error) {
			return pools.Get(ctx, group, name, pool, nil)
		},
		listPools: func(group, name string) listing { return pages(pools.NewListPager(group, name, nil)) },
		removePool: func(ctx context.Context, group, name, pool string, c condition) (*operation, error) {
			return begin(pools.BeginDelete(ctx, group, name, pool, &armv6.AgentPoolsClientBeginDeleteOptions{IfMatch: c.ifMatch, ResumeToken: c.resume}))
		},
	}
}
