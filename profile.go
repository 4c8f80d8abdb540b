package firerunner

// Profile is named defaults that a job chooses by one of the profile's tags. The profile named "default" serves
// jobs that choose by size alone.
type Profile struct {
	Name    string
	Tags    []string // any of these on a job chooses the profile
	Image   string   // name of the image
	Default Size     // for jobs without a size tag
	Limits  SizeLimits
	Public  bool     // its guests may reach public addresses
	Hosts   []string // labels that a host must have, all of them; none: any host will do

	Provision Provisioning // empty = agent
	SSH       SSHAccess    // for ProvisionSSH
}

// DefaultProfile is the name of the profile that is there even if the configuration has none.
const DefaultProfile = "default"
