module ib-sriov/tests/cluster/multus

go 1.16

require (
	github.com/json-iterator/go v1.1.12
	github.com/modern-go/reflect2 v1.0.2
	gopkg.in/intel/multus-cni.v3 v3.4.2
)
