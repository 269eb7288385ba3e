package gosdk

import (
	"context"
	"testing"

	armv1 "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/machinelearning/armmachinelearning"
	armv3 "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/machinelearning/armmachinelearning/v3"
	armv4 "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/machinelearning/armmachinelearning/v4"
)

// ml is armmachinelearning of one version.
type ml struct {
	module string

	createWorkspace func(ctx context.Context, group, name, body string) (*operation, error)
	getWorkspace    func(ctx context.Context, group, name string) (any, error)
	listWorkspaces  func() listing
	groupWorkspaces func(group string) listing
	updateWorkspace func(ctx context.Context, group, name, body string) (*operation, error)
	workspaceKeys   func(ctx context.Context, group, name string) (any, error)
	resyncKeys      func(ctx context.Context, group, name string) (*operation, error)
	removeWorkspace func(ctx context.Context, group, name string) (*operation, error)

	create func(ctx context.Context, group, workspace, name, body, resume string) (*operation, error)
	get    func(ctx context.Context, group, workspace, name string) (any, error)
	list   func(group, workspace string) listing
	update func(ctx context.Context, group, workspace, name, body string) (*operation, error)
	keys   func(ctx context.Context, group, workspace, name string) (any, error)
	nodes  func(group, workspace, name string) listing
	stop   func(ctx context.Context, group, workspace, name string) (*operation, error)
	remove func(ctx context.Context, group, workspace, name, action string) (*operation, error)
}

var mlVersions = map[string]func(*testing.T) ml{"v1": openMLv1, "v3": openMLv3, "v4": openMLv4}

// done is an operation that is at its end already: this version's method does not poll.
func done(answer any, err error) (*operation, error) {
	return &operation{wait: func(context.Context) (any, error) { return answer, nil }}, err
}

func openMLv1(t *testing.T) ml {
	workspaces, err := armv1.NewWorkspacesClient(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	computes, err := armv1.NewComputeClient(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	return ml{
		module: mlV1,
		createWorkspace: func(ctx context.Context, group, name, body string) (*operation, error) {
			return begin(workspaces.BeginCreateOrUpdate(ctx, group, name, model[armv1.Workspace](t, body), nil))
		},
		getWorkspace: func(ctx context.Context, group, name string) (any, error) {
			return workspaces.Get(ctx, group, name, nil)
		},
		listWorkspaces:  func() listing { return pages(workspaces.NewListBySubscriptionPager(nil)) },
		groupWorkspaces: func(group string) listing { return pages(workspaces.NewListByResourceGroupPager(group, nil)) },
		updateWorkspace: func(ctx context.Context, group, name, body string) (*operation, error) {
			return done(workspaces.Update(ctx, group, name, model[armv1.WorkspaceUpdateParameters](t, body), nil))
		},
		workspaceKeys: func(ctx context.Context, group, name string) (any, error) {
			return workspaces.ListKeys(ctx, group, name, nil)
		},
		resyncKeys: func(ctx context.Context, group, name string) (*operation, error) {
			return begin(workspaces.BeginResyncKeys(ctx, group, name, nil))
		},
		removeWorkspace: func(ctx context.Context, group, name string) (*operation, error) {
			return begin(workspaces.BeginDelete(ctx, group, name, nil))
		},
		create: func(ctx context.Context, group, workspace, name, body, resume string) (*operation, error) {
			return begin(computes.BeginCreateOrUpdate(ctx, group, workspace, name, model[armv1.ComputeResource](t, body), &armv1.ComputeClientBeginCreateOrUpdateOptions{ResumeToken: resume}))
		},
		get: func(ctx context.Context, group, workspace, name string) (any, error) {
			return computes.Get(ctx, group, workspace, name, nil)
		},
		list: func(group, workspace string) listing { return pages(computes.NewListPager(group, workspace, nil)) },
		update: func(ctx context.Context, group, workspace, name, body string) (*operation, error) {
			return begin(computes.BeginUpdate(ctx, group, workspace, name, model[armv1.ClusterUpdateParameters](t, body), nil))
		},
		keys: func(ctx context.Context, group, workspace, name string) (any, error) {
			answer, err := computes.ListKeys(ctx, group, workspace, name, nil)
			secrets, _ := answer.ComputeSecretsClassification.(*armv1.AksComputeSecrets)
			return secrets, err
		},
		nodes: func(group, workspace, name string) listing {
			return pages(computes.NewListNodesPager(group, workspace, name, nil))
		},
		stop: func(ctx context.Context, group, workspace, name string) (*operation, error) {
			return begin(computes.BeginStop(ctx, group, workspace, name, nil))
		},
		remove: func(ctx context.Context, group, workspace, name, action string) (*operation, error) {
			return begin(computes.BeginDelete(ctx, group, workspace, name, armv1.UnderlyingResourceAction(action), nil))
		},
	}
}

func openMLv3(t *testing.T) ml {
	f, err := armv3.NewClientFactory(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	workspaces, computes := f.NewWorkspacesClient(), f.NewComputeClient()
	return ml{
		module: mlV3,
		createWorkspace: func(ctx context.Context, group, name, body string) (*operation, error) {
			return begin(workspaces.BeginCreateOrUpdate(ctx, group, name, model[armv3.Workspace](t, body), nil))
		},
		getWorkspace: func(ctx context.Context, group, name string) (any, error) {
			return workspaces.Get(ctx, group, name, nil)
		},
		listWorkspaces:  func() listing { return pages(workspaces.NewListBySubscriptionPager(nil)) },
		groupWorkspaces: func(group string) listing { return pages(workspaces.NewListByResourceGroupPager(group, nil)) },
		updateWorkspace: func(ctx context.Context, group, name, body string) (*operation, error) {
			return begin(workspaces.BeginUpdate(ctx, group, name, model[armv3.WorkspaceUpdateParameters](t, body), nil))
		},
		workspaceKeys: func(ctx context.Context, group, name string) (any, error) {
			return workspaces.ListKeys(ctx, group, name, nil)
		},
		resyncKeys: func(ctx context.Context, group, name string) (*operation, error) {
			return begin(workspaces.BeginResyncKeys(ctx, group, name, nil))
		},
		removeWorkspace: func(ctx context.Context, group, name string) (*operation, error) {
			return begin(workspaces.BeginDelete(ctx, group, name, nil))
		},
		create: func(ctx context.Context, group, workspace, name, body, resume string) (*operation, error) {
			return begin(computes.BeginCreateOrUpdate(ctx, group, workspace, name, model[armv3.ComputeResource](t, body), &armv3.ComputeClientBeginCreateOrUpdateOptions{ResumeToken: resume}))
		},
		get: func(ctx context.Context, group, workspace, name string) (any, error) {
			return computes.Get(ctx, group, workspace, name, nil)
		},
		list: func(group, workspace string) listing { return pages(computes.NewListPager(group, workspace, nil)) },
		update: func(ctx context.Context, group, workspace, name, body string) (*operation, error) {
			return begin(computes.BeginUpdate(ctx, group, workspace, name, model[armv3.ClusterUpdateParameters](t, body), nil))
		},
		keys: func(ctx context.Context, group, workspace, name string) (any, error) {
			answer, err := computes.ListKeys(ctx, group, workspace, name, nil)
			secrets, _ := answer.ComputeSecretsClassification.(*armv3.AksComputeSecrets)
			return secrets, err
		},
		nodes: func(group, workspace, name string) listing {
			return pages(computes.NewListNodesPager(group, workspace, name, nil))
		},
		stop: func(ctx context.Context, group, workspace, name string) (*operation, error) {
			return begin(computes.BeginStop(ctx, group, workspace, name, nil))
		},
		remove: func(ctx context.Context, group, workspace, name, action string) (*operation, error) {
			return begin(computes.BeginDelete(ctx, group, workspace, name, armv3.UnderlyingResourceAction(action), nil))
		},
	}
}

func openMLv4(t *testing.T) ml {
	f, err := armv4.NewClientFactory(berth.subscription, berth.credential, berth.options)
	if err != nil {
		t.Fatal(err)
	}
	workspaces, computes := f.NewWorkspacesClient(), f.NewComputeClient()
	return ml{
		module: mlV4,
		createWorkspace: func(ctx context.Context, group, name, body string) (*operation, error) {
			return begin(workspaces.BeginCreateOrUpdate(ctx, group, name, model[armv4.Workspace](t, body), nil))
		},
		getWorkspace: func(ctx context.Context, group, name string) (any, error) {
			return workspaces.Get(ctx, group, name, nil)
		},
		listWorkspaces:  func() listing { return pages(workspaces.NewListBySubscriptionPager(nil)) },
		groupWorkspaces: func(group string) listing { return pages(workspaces.NewListByResourceGroupPager(group, nil)) },
		updateWorkspace: func(ctx context.Context, group, name, body string) (*operation, error) {
			return begin(workspaces.BeginUpdate(ctx, group, name, model[armv4.WorkspaceUpdateParameters](t, body), nil))
		},
		workspaceKeys: func(ctx context.Context, group, name string) (any, error) {
			return workspaces.ListKeys(ctx, group, name, nil)
		},
		resyncKeys: func(ctx context.Context, group, name string) (*operation, error) {
			return begin(workspaces.BeginResyncKeys(ctx, group, name, nil))
		},
		removeWorkspace: func(ctx context.Context, group, name string) (*operation, error) {
			return begin(workspaces.BeginDelete(ctx, group, name, nil))
		},
		create: func(ctx context.Context, group, workspace, name, body, resume string) (*operation, error) {
			return begin(computes.BeginCreateOrUpdate(ctx, group, workspace, name, model[armv4.ComputeResource](t, body), &armv4.ComputeClientBeginCreateOrUpdateOptions{ResumeToken: resume}))
		},
		get: func(ctx context.Context, group, workspace, name string) (any, error) {
			return computes.Get(ctx, group, workspace, name, nil)
		},
		list: func(group, workspace string) listing { return pages(computes.NewListPager(group, workspace, nil)) },
		update: func(ctx context.Context, group, workspace, name, body string) (*operation, error) {
			return begin(computes.BeginUpdate(ctx, group, workspace, name, model[armv4.ClusterUpdateParameters](t, body), nil))
		},
		keys: func(ctx context.Context, group, workspace, name string) (any, error) {
			answer, err := computes.ListKeys(ctx, group, workspace, name, nil)
			secrets, _ := answer.ComputeSecretsClassification.(*armv4.AksComputeSecrets)
			return secrets, err
		},
		nodes: func(group, workspace, name string) listing {
			return pages(computes.NewListNodesPager(group, workspace, name, nil))
		},
		stop: func(ctx context.Context, group, workspace, name string) (*operation, error) {
			return begin(computes.BeginStop(ctx, group, workspace, name, nil))
		},
		remove: func(ctx context.Context, group, workspace, name, action string) (*operation, error) {
			return begin(computes.BeginDelete(ctx, group, workspace, name, armv4.UnderlyingResourceAction(action), nil))
		},
	}
}
