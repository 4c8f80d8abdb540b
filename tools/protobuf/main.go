// Command protobuf makes Go code from .proto files, without protoc:
//
//	protobuf -root DIR -plugin PATH -plugin PATH FILE...
//
// FILEs are named as they import one another, relative to -root; what a plugin (protoc-gen-go, protoc-gen-go-grpc)
// makes of them is written beside them. The plugins' protocol is google/protobuf/compiler/plugin.proto: a request on
// standard input, a response on standard output.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	root := flag.String("root", ".", "folder that the imports are relative to")
	var plugins []string
	flag.Func("plugin", "program that makes code; may be repeated", func(path string) error {
		plugins = append(plugins, path)
		return nil
	})
	flag.Parse()
	if err := run(context.Background(), *root, plugins, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "protobuf:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string, plugins, files []string) error {
	if len(plugins) == 0 || len(files) == 0 {
		return errors.New("at least one -plugin and one file")
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments
	}
	compiled, err := compiler.Compile(ctx, files...)
	if err != nil {
		return err
	}
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: files, Parameter: proto.String("paths=source_relative")}
	seen := map[string]bool{}
	for _, file := range compiled {
		add(request, seen, file)
	}
	for _, plugin := range plugins {
		if err := generate(ctx, root, plugin, request); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(plugin), err)
		}
	}
	return nil
}

// add adds a file after everything that it imports, as plugins demand.
func add(request *pluginpb.CodeGeneratorRequest, seen map[string]bool, file protoreflect.FileDescriptor) {
	if seen[file.Path()] {
		return
	}
	seen[file.Path()] = true
	imports := file.Imports()
	for i := range imports.Len() {
		add(request, seen, imports.Get(i).FileDescriptor)
	}
	request.ProtoFile = append(request.ProtoFile, described(file))
}

// described is a file as it was parsed, or else as it was compiled in.
func described(file protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	if parsed, ok := file.(interface {
		FileDescriptorProto() *descriptorpb.FileDescriptorProto
	}); ok {
		return parsed.FileDescriptorProto()
	}
	return protodesc.ToFileDescriptorProto(file)
}

func generate(ctx context.Context, root, plugin string, request *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, plugin)
	command.Stdin, command.Stderr = bytes.NewReader(in), os.Stderr
	out, err := command.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		return err
	}
	if response.GetError() != "" {
		return errors.New(response.GetError())
	}
	for _, file := range response.File {
		if !filepath.IsLocal(file.GetName()) || !strings.HasSuffix(file.GetName(), ".go") {
			return fmt.Errorf("it names %q", file.GetName())
		}
		if err := os.WriteFile(filepath.Join(root, file.GetName()), []byte(file.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
