package main

import "syscall"

// childAttr has the kernel send the command SIGTERM if we die, even by
// SIGKILL: a command that runs under a lock must not go on without it.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
