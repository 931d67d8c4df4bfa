//! Server reflection, v1 and v1alpha, from the descriptors of the services that the port serves.
//!
//! The messages are `tonic-reflection`'s; the answers are ours, because its server ends the stream where the
//! protocol has an `error_response`, after which a client cannot ask on.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

use super::pb;

/// One question has a name or two in it. Of what a conversation sends nothing more is ever held.
pub(super) const QUESTION_BYTES_MAX: usize = 64 << 10;

/// What can be asked for.
#[derive(Debug, Default)]
pub(super) struct Index {
    services: BTreeSet<String>,
    /// By file name.
    files: BTreeMap<String, Vec<u8>>,
    /// Symbol -> file name.
    symbols: BTreeMap<String, String>,
}

/// An answer, before it is put into a version's messages.
enum Answer {
    File(Vec<u8>),
    Services(Vec<String>),
    /// No message of ours has extensions.
    Extensions(String),
    Error(Code, String),
}

impl Index {
    /// All services of the port.
    pub(super) fn new() -> Result<Index, prost::DecodeError> {
        let mut index = Index::default();
        for encoded in [
            pb::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            for file in FileDescriptorSet::decode(encoded)?.file {
                index.add(&file);
            }
        }
        Ok(index)
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let name = file.name().to_owned();
        let package = file.package();
        for service in &file.service {
            let full = join(package, service.name());
            for method in &service.method {
                self.symbol(&name, join(&full, method.name()));
            }
            self.services.insert(full.clone());
            self.symbol(&name, full);
        }
        for message in &file.message_type {
            self.message(&name, package, message);
        }
        for kind in &file.enum_type {
            self.enumeration(&name, package, kind);
        }
        self.files.insert(name, file.encode_to_vec());
    }

    fn message(&mut self, file: &str, scope: &str, message: &DescriptorProto) {
        let full = join(scope, message.name());
        for field in &message.field {
            self.symbol(file, join(&full, field.name()));
        }
        for nested in &message.nested_type {
            self.message(file, &full, nested);
        }
        for kind in &message.enum_type {
            self.enumeration(file, &full, kind);
        }
        self.symbol(file, full);
    }

    fn enumeration(&mut self, file: &str, scope: &str, kind: &EnumDescriptorProto) {
        // Values live beside their enum, as in C++.
        for value in &kind.value {
            self.symbol(file, join(scope, value.name()));
        }
        self.symbol(file, join(scope, kind.name()));
    }

    fn symbol(&mut self, file: &str, symbol: String) {
        self.symbols.insert(symbol, file.to_owned());
    }

    fn file(&self, name: &str) -> Answer {
        match self.files.get(name) {
            Some(file) => Answer::File(file.clone()),
            None => Answer::Error(Code::NotFound, format!("file '{name}' not found")),
        }
    }

    fn containing(&self, symbol: &str) -> Answer {
        match self.symbols.get(symbol) {
            Some(file) => self.file(file),
            None => Answer::Error(Code::NotFound, format!("symbol '{symbol}' not found")),
        }
    }

    fn extensions(&self, of: String) -> Answer {
        match self.symbols.contains_key(&of) {
            true => Answer::Extensions(of),
            false => Answer::Error(Code::NotFound, format!("type '{of}' not found")),
        }
    }
}

fn join(scope: &str, name: &str) -> String {
    match scope {
        "" => name.to_owned(),
        scope => format!("{scope}.{name}"),
    }
}

/// One version of the service. The versions differ in nothing but their package.
macro_rules! version {
    ($version:ident) => {
        /// This version of the service.
        pub(super) mod $version {
            use super::*;
            use proto::server_reflection_request::MessageRequest as Ask;
            use proto::server_reflection_response::MessageResponse as Reply;
            use proto::server_reflection_server::{ServerReflection, ServerReflectionServer};
            use tonic_reflection::pb::$version as proto;

            pub(in super::super) struct Service(Arc<Index>);

            /// The service over an index.
            pub(in super::super) fn service(index: &Arc<Index>) -> ServerReflectionServer<Service> {
                let service = ServerReflectionServer::new(Service(index.clone()));
                service.max_decoding_message_size(QUESTION_BYTES_MAX)
            }

            #[tonic::async_trait]
            impl ServerReflection for Service {
                type ServerReflectionInfoStream =
                    Pin<Box<dyn Stream<Item = Result<proto::ServerReflectionResponse, Status>> + Send>>;

                async fn server_reflection_info(
                    &self,
                    request: Request<Streaming<proto::ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    let index = self.0.clone();
                    let answers = request.into_inner().map(move |asked| asked.map(|asked| answer(&index, asked)));
                    Ok(Response::new(Box::pin(answers)))
                }
            }

            pub(in super::super) fn answer(
                index: &Index,
                asked: proto::ServerReflectionRequest,
            ) -> proto::ServerReflectionResponse {
                let answer = match asked.message_request.clone() {
                    Some(Ask::FileByFilename(name)) => index.file(&name),
                    Some(Ask::FileContainingSymbol(symbol)) => index.containing(&symbol),
                    Some(Ask::FileContainingExtension(extension)) => {
                        let (number, of) = (extension.extension_number, extension.containing_type);
                        Answer::Error(Code::NotFound, format!("extension {number} of '{of}' not found"))
                    }
                    Some(Ask::AllExtensionNumbersOfType(of)) => index.extensions(of),
                    Some(Ask::ListServices(_)) => Answer::Services(index.services.iter().cloned().collect()),
                    None => Answer::Error(Code::InvalidArgument, "the request asks for nothing".into()),
                };
                let reply = match answer {
                    Answer::File(file) => Reply::FileDescriptorResponse(proto::FileDescriptorResponse {
                        file_descriptor_proto: vec![file],
                    }),
                    Answer::Services(names) => Reply::ListServicesResponse(proto::ListServiceResponse {
                        service: names.into_iter().map(|name| proto::ServiceResponse { name }).collect(),
                    }),
                    Answer::Extensions(base_type_name) => {
                        Reply::AllExtensionNumbersResponse(proto::ExtensionNumberResponse {
                            base_type_name,
                            extension_number: Vec::new(),
                        })
                    }
                    Answer::Error(code, error_message) => {
                        Reply::ErrorResponse(proto::ErrorResponse { error_code: code as i32, error_message })
                    }
                };
                proto::ServerReflectionResponse {
                    valid_host: asked.host.clone(),
                    original_request: Some(asked),
                    message_response: Some(reply),
                }
            }
        }
    };
}

version!(v1);
version!(v1alpha);

#[cfg(test)]
mod tests {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Ask;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Reply;

    use super::*;

    fn ask(ask: Ask) -> Reply {
        let request = ServerReflectionRequest { host: "h".into(), message_request: Some(ask) };
        let response = v1::answer(&Index::new().unwrap(), request.clone());
        assert_eq!((response.valid_host.as_str(), response.original_request), ("h", Some(request)));
        response.message_response.unwrap()
    }

    #[test]
    fn every_service_of_the_port_is_listed() {
        let Reply::ListServicesResponse(list) = ask(Ask::ListServices(String::new())) else { panic!("no list") };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "converge.admin.v1.AdminService",
                "converge.context.v1.ContextService",
                "converge.ledger.v1.ClusterService",
                "converge.ledger.v1.LedgerService",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ]
        );
    }

    #[test]
    fn symbols_lead_to_their_file() {
        for symbol in [
            "converge.context.v1.ContextService",
            "converge.context.v1.ContextService.Append",
            "converge.context.v1.Entry",
            "converge.context.v1.Entry.payload",
            "converge.context.v1.Entry.MetadataEntry",
        ] {
            let Reply::FileDescriptorResponse(files) = ask(Ask::FileContainingSymbol(symbol.into())) else {
                panic!("{symbol} is not found")
            };
            let file = FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
            assert_eq!(file.package(), "converge.context.v1");
        }
    }

    #[test]
    fn what_is_not_there_is_an_answer_and_no_end() {
        for unknown in [
            Ask::FileContainingSymbol("no.such.Thing".into()),
            Ask::FileByFilename("none.proto".into()),
            Ask::AllExtensionNumbersOfType("no.such.Thing".into()),
        ] {
            let Reply::ErrorResponse(error) = ask(unknown) else { panic!("an answer to nothing") };
            assert_eq!(error.error_code, Code::NotFound as i32);
        }
    }
}
