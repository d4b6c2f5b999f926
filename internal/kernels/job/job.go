// Package job is what a test machine and its host tell each other: the host
// puts a Job into the machine's initramfs, the machine writes Events to a
// port of its own, one JSON object a line, so that kernel messages on the
// console never mix with them.
package job

import "time"

// Names that both sides agree on.
const (
	// File is where the machine finds its Job, as JSON, in the initramfs.
	File = "/job.json"
	// Port is the name of the virtio port that takes the events.
	Port = "inboard.events"
	// Disk is the virtio serial number of the ext4 disk that becomes /var.
	Disk = "inboard-var"
	// Tests is the directory on the disk that has a directory for each test,
	// as seen in the machine.
	Tests = "/var/tests"
	// Binary is the name of the test binary in its directory.
	Binary = "package.test"
	// Tools is the program of internal/tools, on the disk as seen in the
	// machine; tests find it by an environment variable of that package.
	Tools = "/var/tools"
)

// Job is all that a machine does between boot and power off.
type Job struct {
	Time    time.Time `json:"time"`    // the host's clock; the machine may have none
	Modules []string  `json:"modules"` // kernel modules in the initramfs, dependencies first
	Tests   []Test    `json:"tests"`
}

// Test is one package's test binary.
type Test struct {
	Package string   `json:"package"` // import path
	Dir     string   `json:"dir"`     // its directory below Tests; the working directory
	Args    []string `json:"args"`    // arguments of the binary
}

// Kind says what an Event tells.
type Kind string

// In the order in which a machine sends them; Start to Exit for each test.
const (
	Boot   Kind = "boot"   // Text: the kernel's release
	Start  Kind = "start"  // Package begins
	Output Kind = "output" // Data: what its binary wrote
	Left   Kind = "left"   // Text: something that Package left behind
	Exit   Kind = "exit"   // Code, Seconds: Package has ended
	Fault  Kind = "fault"  // Text: the machine itself cannot go on
	Done   Kind = "done"   // all tests ran
)

// Event is one line from the machine.
type Event struct {
	Kind    Kind    `json:"kind"`
	Package string  `json:"package,omitempty"`
	Text    string  `json:"text,omitempty"`
	Data    []byte  `json:"data,omitempty"`
	Code    int     `json:"code,omitempty"` // exit code; 128 + n after signal n
	Seconds float64 `json:"seconds,omitempty"`
}
