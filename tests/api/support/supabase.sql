-- A database as a Supabase project with chatbot-ui's schema has it, as far as
-- it matters here: the auth schema belongs to somebody else, extensions live
-- in a schema of their own, the tables have what chatbot-ui gives them.

do $$ begin create role supabase_auth_admin nologin noinherit; exception when duplicate_object or unique_violation then null; end $$;
create schema extensions;
create extension vector schema extensions;
create function extensions.uuid_generate_v4() returns uuid language sql as 'select gen_random_uuid()';

create schema auth authorization supabase_auth_admin;
create table auth.users (
  instance_id uuid, id uuid not null primary key, aud varchar(255), role varchar(255), email varchar(255),
  encrypted_password varchar(255), raw_app_meta_data jsonb, raw_user_meta_data jsonb, created_at timestamptz, updated_at timestamptz,
  banned_until timestamptz, deleted_at timestamptz, is_sso_user boolean not null default false, is_anonymous boolean not null default false);
create table auth.sessions (
  id uuid not null primary key, user_id uuid not null references auth.users (id) on delete cascade,
  created_at timestamptz, updated_at timestamptz, factor_id uuid, not_after timestamptz, refreshed_at timestamp, user_agent text, ip inet);
alter table auth.users owner to supabase_auth_admin;
alter table auth.sessions owner to supabase_auth_admin;
alter table auth.users enable row level security;
alter table auth.sessions enable row level security;
create function auth.uid() returns uuid language sql stable as $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;

set search_path = public, extensions;
create table public.folders (id uuid primary key default uuid_generate_v4(), user_id uuid not null references auth.users (id) on delete cascade);
create table public.profiles (
  id uuid primary key default uuid_generate_v4(), user_id uuid not null unique references auth.users (id) on delete cascade,
  created_at timestamptz not null default current_timestamp, updated_at timestamptz, bio text not null, has_onboarded boolean not null default false,
  image_url text not null, image_path text not null, profile_context text not null, display_name text not null, use_azure_openai boolean not null,
  username text not null unique, anthropic_api_key text, azure_openai_35_turbo_id text, azure_openai_45_turbo_id text, azure_openai_45_vision_id text,
  azure_openai_api_key text, azure_openai_endpoint text, google_gemini_api_key text, mistral_api_key text, openai_api_key text,
  openai_organization_id text, perplexity_api_key text, openrouter_api_key text, azure_openai_embeddings_id text, groq_api_key text);
create table public.models (
  id uuid primary key default uuid_generate_v4(), user_id uuid not null references auth.users (id) on delete cascade,
  folder_id uuid references public.folders (id) on delete set null, created_at timestamptz not null default current_timestamp, updated_at timestamptz,
  sharing text not null default 'private', api_key text not null, base_url text not null, description text not null, model_id text not null,
  name text not null, context_length int not null default 4096);
create table public.workspaces (
  id uuid primary key default uuid_generate_v4(), user_id uuid not null references auth.users (id) on delete cascade,
  is_home boolean not null default false, name text not null, default_model text not null, image_path text not null default '');
create table public.model_workspaces (
  user_id uuid not null references auth.users (id) on delete cascade, model_id uuid not null references public.models (id) on delete cascade,
  workspace_id uuid not null references public.workspaces (id) on delete cascade, created_at timestamptz not null default current_timestamp,
  updated_at timestamptz, primary key (model_id, workspace_id));
create table public.files (
  id uuid primary key default uuid_generate_v4(), user_id uuid not null references auth.users (id) on delete cascade,
  folder_id uuid references public.folders (id) on delete set null, created_at timestamptz not null default current_timestamp, updated_at timestamptz,
  sharing text not null default 'private', description text not null, file_path text not null, name text not null, size int not null,
  tokens int not null, type text not null);
create table public.file_items (
  id uuid primary key default uuid_generate_v4(), file_id uuid not null references public.files (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade, created_at timestamptz not null default current_timestamp, updated_at timestamptz,
  sharing text not null default 'private', content text not null, local_embedding vector(384), openai_embedding vector(1536), tokens int not null);
create table public.collections (
  id uuid primary key default uuid_generate_v4(), user_id uuid not null references auth.users (id) on delete cascade,
  sharing text not null default 'private', name text not null);
create table public.collection_files (
  user_id uuid not null references auth.users (id) on delete cascade, collection_id uuid not null references public.collections (id) on delete cascade,
  file_id uuid not null references public.files (id) on delete cascade, primary key (collection_id, file_id));
-- Tables that only the front end uses.
create table public.presets (id uuid primary key default uuid_generate_v4(), model text not null);
create table public.assistants (id uuid primary key default uuid_generate_v4(), model text not null);
create table public.chats (id uuid primary key default uuid_generate_v4(), model text not null);
create table public.messages (id uuid primary key default uuid_generate_v4(), assistant_id uuid references public.assistants (id));
create table public.prompts (id uuid primary key default uuid_generate_v4());
create table public.tools (id uuid primary key default uuid_generate_v4());
create table public.assistant_files (assistant_id uuid, file_id uuid);
create table public.assistant_tools (assistant_id uuid, tool_id uuid);
alter table public.profiles enable row level security;
alter table public.models enable row level security;
alter table public.workspaces enable row level security;
alter table public.model_workspaces enable row level security;
create policy "Allow full access to own models" on public.models using (user_id = auth.uid()) with check (user_id = auth.uid());
create policy "Allow view access to non-private models" on public.models for select using (sharing <> 'private');
create policy "Allow full access to own workspaces" on public.workspaces using (user_id = auth.uid()) with check (user_id = auth.uid());
create policy "Allow full access to own model_workspaces" on public.model_workspaces using (user_id = auth.uid()) with check (user_id = auth.uid());
alter table public.files enable row level security;
alter table public.file_items enable row level security;
alter table public.collections enable row level security;
alter table public.collection_files enable row level security;

create function public.on_signup() returns trigger language plpgsql security definer as $$
begin
  insert into public.profiles (user_id, username, display_name, bio, image_url, image_path, profile_context, use_azure_openai)
    values (new.id, 'user' || left(md5(new.id::text), 16), '', '', '', '', '', false);
  insert into public.workspaces (user_id, is_home, name, default_model) values (new.id, true, 'Home', 'gpt-4o');
  return new;
end $$;
create trigger create_profile_and_workspace_trigger after insert on auth.users for each row execute function public.on_signup();
