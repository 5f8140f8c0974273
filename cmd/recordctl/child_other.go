//go:build !linux

package main

import "syscall"

// childAttr is empty: only Linux can tell a process that its parent died.
func childAttr() *syscall.SysProcAttr { return nil }
