// Package terraform lets an unmodified Terraform with the azapi provider, built from the
// module that go.mod pins, make a workspace and its clusters, change them and take them away.
package terraform
